//! `cargo xtask lab`: the lab's program outside of the machine.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use sanbridge_lab::outside::cache::Cache;
use sanbridge_lab::outside::machine::{Boot, Changes, Plan};
use sanbridge_lab::outside::programs::{self, State};
use sanbridge_lab::outside::run::{self, Choice};
use sanbridge_lab::outside::standing::Standing;
use sanbridge_lab::outside::tools::{Trouble, TroubleKind, about, say};
use sanbridge_lab::outside::{accelerator, image};
use serde_json::json;

/// The lab: a throw-away virtual machine in which the product meets a real kernel.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print one JSON document and nothing else on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Where images are kept [default: /var/cache/sanbridge-lab for root, else ~/.cache/sanbridge-lab]
    #[arg(long, global = true)]
    cache: Option<PathBuf>,
    /// Where the guest's packages come from [default: as mmdebstrap or this computer's apt have it]
    #[arg(long, global = true)]
    mirror: Option<String>,
    /// The folder of the machine that up, shell and down are about [default: a folder in the cache]
    #[arg(long, global = true)]
    machine: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the image of the guest, if it is not there
    Image,
    /// Run groups of checks, each in fresh machines
    Run {
        #[command(flatten)]
        choice: Choice,
        /// Where this computer cannot carry the lab, say so and succeed
        #[arg(long)]
        or_skip: bool,
    },
    /// Run the group that records what real tools say, and put the recordings into the clone
    Record,
    /// Start a machine with everything in place; where one stands, give it the present programs
    Up {
        /// Boot systemd with Debian's units instead of a script
        #[arg(long)]
        systemd: bool,
        /// Take the programs as they were built last, instead of building them now
        #[arg(long)]
        as_built: bool,
    },
    /// Run a command in the machine, or each line of standard input
    Shell {
        /// Seconds after which a command is ended
        #[arg(long, default_value_t = 600)]
        deadline: u64,
        /// The command, a shell text
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// End the machine and take its files away
    Down,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    // One thread: machines are bound to the life of the thread that starts them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(json, &error.to_string()),
    };
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = work(arguments) => ended,
            () = interrupted() => Err(Trouble::fault("interrupted")),
        }
    });
    // Not to wait for a thread that reads the terminal.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(trouble) => fail(json, &trouble.text),
    }
}

/// Completes when somebody wants this program to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = async |kind| match signal(kind) {
        Ok(mut it) => it.recv().await.unwrap_or_default(),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()), if !outlives_terminal() => {}
    }
}

/// Whether it was started so that it goes on without its terminal (`nohup`): the hangup was ignored before we asked for it.
fn outlives_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|it| it.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit.
    ignored.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).is_some_and(|it| it & 1 == 1)
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on its terminal")]
fn print(text: &str) {
    println!("{text}");
}

fn fail(json: bool, text: &str) -> ExitCode {
    say(text);
    if json {
        print(&json!({ "format": 1, "ok": false, "error": text }).to_string());
    }
    ExitCode::FAILURE
}

/// A result for machines as JSON, for people as a sentence.
fn tell(json: bool, document: &serde_json::Value, sentence: &str) {
    print(&if json { document.to_string() } else { sentence.to_owned() });
}

async fn work(arguments: Arguments) -> Result<ExitCode, Trouble> {
    let json = arguments.json;
    let cache = Cache::open(arguments.cache)?;
    let folder = arguments.machine.unwrap_or_else(|| cache.path("machine"));
    let folder = std::path::absolute(&folder).map_err(about(&folder))?;
    let standing = Standing::new(folder.clone());
    let mirror = arguments.mirror.as_deref();
    match arguments.verb {
        Verb::Image => {
            let image = image::ensure(&cache, mirror).await?;
            let folder = image.folder.display().to_string();
            tell(json, &json!({ "format": 1, "ok": true, "image": folder }), &folder);
        }
        Verb::Run { choice, or_skip } => return report(json, &cache, mirror, &choice, or_skip).await,
        Verb::Record => run::record(&cache, mirror).await?,
        Verb::Up { systemd, as_built } => {
            let state = if as_built { State::AsBuilt } else { State::Present };
            let (image, programs) = tokio::try_join!(image::ensure(&cache, mirror), programs::ready(state))?;
            let accelerator = accelerator::find(&cache, &image).await?;
            let plan = Plan {
                image,
                share: folder.join("share"),
                folder,
                boot: if systemd { Boot::Systemd } else { Boot::Script },
                changes: Changes::InMemory,
                node: 1,
                wires: None,
                accelerator,
            };
            let booted = standing.up(&plan, &programs).await?;
            let sentence = match booted {
                Some(booted) => format!("the machine is up, {:.1} s", booted.as_secs_f64()),
                None => "the machine stands already and has the present programs".to_owned(),
            };
            let share = plan.share.display().to_string();
            let seconds = booted.map(|it| it.as_secs_f64());
            tell(
                json,
                &json!({ "format": 1, "ok": true, "boot_seconds": seconds, "share": share }),
                &sentence,
            );
        }
        Verb::Shell { deadline, command } => {
            let deadline = Duration::from_secs(deadline);
            if command.is_empty() {
                return lines(&standing, deadline).await;
            }
            return shell(json, &standing, &command.join(" "), deadline).await;
        }
        Verb::Down => {
            let ran = standing.down().await?;
            let sentence = if ran { "the machine is down" } else { "no machine stood" };
            tell(json, &json!({ "format": 1, "ok": true, "ran": ran }), sentence);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs groups and tells what came of them.
async fn report(
    json: bool,
    cache: &Cache,
    mirror: Option<&str>,
    choice: &Choice,
    or_skip: bool,
) -> Result<ExitCode, Trouble> {
    let (report, logs) = match run::run(cache, mirror, choice).await {
        Err(trouble) if or_skip && trouble.kind == TroubleKind::Lacking => {
            let reason = trouble.text.replace('\n', "; ");
            tell(
                json,
                &json!({ "format": 1, "ok": true, "skipped": reason }),
                &format!("lab: skipped ({reason})"),
            );
            return Ok(ExitCode::SUCCESS);
        }
        ended => ended?,
    };
    print(&if json { format!("{:#}", report.to_json()) } else { report.to_text() });
    if let Some(logs) = logs {
        say(&format!("logs and recordings: {}", logs.display()));
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one command in the machine; this program then ends with its code.
async fn shell(json: bool, standing: &Standing, text: &str, deadline: Duration) -> Result<ExitCode, Trouble> {
    let output = standing.shell(text, deadline).await?;
    if json {
        let show = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (show(&output.stdout), show(&output.stderr));
        print(&json!({ "format": 1, "code": output.code, "stdout": stdout, "stderr": stderr }).to_string());
    } else {
        let written = std::io::stdout().write_all(&output.stdout);
        written
            .and_then(|()| std::io::stderr().write_all(&output.stderr))
            .map_err(about("the terminal".as_ref()))?;
    }
    Ok(ExitCode::from(u8::try_from(output.code).unwrap_or(u8::MAX)))
}

/// Runs each line of standard input.
async fn lines(standing: &Standing, deadline: Duration) -> Result<ExitCode, Trouble> {
    say("one command a line; end of file ends this shell, not the machine");
    let mut last = ExitCode::SUCCESS;
    // On a thread that may wait: this one has to notice an interrupt.
    while let Ok(Some(line)) = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await {
        let line = line.map_err(about("standard input".as_ref()))?;
        last = shell(false, standing, &line, deadline).await?;
    }
    Ok(last)
}
