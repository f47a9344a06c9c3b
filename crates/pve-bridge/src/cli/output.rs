//! What people and programs read: tables, lines, JSON, and progress. Nothing that came from elsewhere reaches a terminal
//! as anything but text.

use std::fmt;
use std::io::{IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, presets};
use san_core::Error;
use serde::Serialize;

use super::exit::Exit;

/// What one end of the program is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// A terminal, so wide where it says so.
    Terminal {
        /// Its columns.
        columns: Option<u16>,
    },
    /// A file or another program.
    Pipe,
}

impl Screen {
    /// What a stream of this process is connected to.
    pub fn of(stream: &impl IsTerminal) -> Self {
        if stream.is_terminal() {
            Self::Terminal { columns: comfy_table::Table::new().width() }
        } else {
            Self::Pipe
        }
    }
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: the daemon's answer, as `PROTOCOL.md` describes it.
    Json,
}

/// Where results and messages go.
pub struct Console<'a> {
    out: &'a mut (dyn Write + Send),
    err: &'a mut (dyn Write + Send),
    screen: Screen,
    messages: Screen,
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("screen", &self.screen).finish_non_exhaustive()
    }
}

impl<'a> Console<'a> {
    /// Results go to `out`, which is `screen`; messages to `err`, which is `messages`.
    pub fn new(
        out: &'a mut (dyn Write + Send),
        screen: Screen,
        err: &'a mut (dyn Write + Send),
        messages: Screen,
    ) -> Self {
        Self { out, err, screen, messages }
    }

    /// A bar for work that takes long: on the terminal of the messages, and nowhere else.
    pub(crate) fn progress(&self) -> indicatif::ProgressBar {
        match self.messages {
            Screen::Terminal { .. } => indicatif::ProgressBar::new(100),
            Screen::Pipe => indicatif::ProgressBar::hidden(),
        }
    }

    /// What results are written to.
    pub(crate) fn screen(&self) -> Screen {
        self.screen
    }

    /// Writes results. Whoever reads them may stop reading: that is no failure of what was asked for.
    pub(crate) fn print(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// Writes a message in one line.
    pub(crate) fn note(&mut self, text: &str) {
        let _ = writeln!(self.err, "{}", plain(text));
    }

    /// Says why something failed, and what cures it; the code to end with.
    pub fn end(&mut self, error: &Error) -> Exit {
        let remedy = error.remedy().map(|it| format!(" -- {it}")).unwrap_or_default();
        self.note(&format!("sanbridge: {}{remedy}", error.chain()));
        Exit::of(error.kind())
    }
}

/// The text without what a terminal would obey: control characters become spaces, and so do those that turn the direction
/// of writing.
pub(crate) fn plain(text: &str) -> String {
    let obeyed = |it: char| {
        it.is_control()
            || matches!(it, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|it| if obeyed(it) { ' ' } else { it }).collect()
}

/// A result as programs get it.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Error::new(san_core::ErrorKind::Internal, "the answer cannot be written").caused_by(error)
    })?;
    Ok(format!("{text}\n"))
}

/// Rows under headings.
#[derive(Debug)]
pub(crate) struct Table {
    headings: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one. A heading that ends with `>` stands above numbers, which are aligned to the right.
    pub(crate) fn new(headings: &'static [&'static str]) -> Self {
        Self { headings, rows: Vec::new() }
    }

    /// One more row, with a cell for each heading.
    pub(crate) fn row<const N: usize>(&mut self, cells: &[String; N]) {
        self.rows.push(cells.iter().map(|it| plain(it)).collect());
    }

    /// Whether it has no rows.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Framed on a terminal; only aligned for other programs, which read it line by line.
    pub(crate) fn render(&self, screen: Screen) -> String {
        let mut table = comfy_table::Table::new();
        // What this process is connected to is not for the library to find out.
        table.force_no_tty();
        match screen {
            Screen::Terminal { columns } => {
                table.load_style(presets::UTF8_FULL_CONDENSED);
                table.set_content_arrangement(ContentArrangement::Dynamic);
                if let Some(columns) = columns {
                    table.set_width(columns);
                }
            }
            Screen::Pipe => {
                table.load_style(presets::NOTHING);
            }
        }
        table.set_header(self.headings.iter().map(|it| it.trim_end_matches('>')));
        table.add_rows(&self.rows);
        for (column, heading) in table.column_iter_mut().zip(self.headings) {
            if heading.ends_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if screen == Screen::Pipe {
                column.set_padding((0, 2));
            }
        }
        let lines = table.lines().map(|it| it.trim_end().to_owned());
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }
}

/// A size in the unit that people would choose.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10240 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    let (whole, tenth) = (tenths / 10, tenths % 10);
    if tenth == 0 { format!("{whole} {}", UNITS[unit]) } else { format!("{whole}.{tenth} {}", UNITS[unit]) }
}

/// The same, or a dash where it is not known.
pub(crate) fn known_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".to_owned(), size)
}

/// How long, in the two largest units.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// How long ago something was, by the clock of this node; a dash where that is not known.
pub(crate) fn age_of(since: Option<i64>) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let seconds = since.and_then(|it| u64::try_from(it).ok()).map(|it| now.saturating_sub(it));
    seconds.map_or_else(|| "-".to_owned(), age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table {
        let mut table = Table::new(&["NAME", "SIZE>"]);
        table.row(&["vm-100-disk-0".to_owned(), size(8 << 30)]);
        table.row(&["evil\u{1b}[2Jname\u{202e}".to_owned(), size(1536)]);
        table
    }

    #[test]
    fn a_pipe_gets_aligned_lines_without_frames() {
        let expected = "\
NAME              SIZE
vm-100-disk-0    8 GiB
evil [2Jname   1.5 KiB
";
        assert_eq!(example().render(Screen::Pipe), expected);
    }

    #[test]
    fn a_terminal_gets_a_frame() {
        let shown = example().render(Screen::Terminal { columns: None });
        let expected = "\
┌───────────────┬─────────┐
│ NAME          ┆    SIZE │
╞═══════════════╪═════════╡
│ vm-100-disk-0 ┆   8 GiB │
│ evil [2Jname  ┆ 1.5 KiB │
└───────────────┴─────────┘
";
        assert_eq!(shown, expected);
        let narrow = example().render(Screen::Terminal { columns: Some(20) });
        assert!(narrow.lines().all(|it| it.chars().count() <= 20), "{narrow}");
    }

    #[test]
    fn sizes_and_ages_are_for_people() {
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (u64::MAX, "16 EiB")];
        for (bytes, expected) in sizes {
            assert_eq!(size(bytes), expected);
        }
        for (seconds, expected) in [(5, "5 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90000, "1 d 1 h")] {
            assert_eq!(age(seconds), expected);
        }
    }
}
