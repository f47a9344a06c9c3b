//! The page that says what is proved where may name only tests that are there.

use std::path::{Path, PathBuf};

const PAGE: &str = "docs/verification.md";
/// The clauses in them are tests of every implementation, by the macros of that crate.
const CLAUSES: &str = "crates/contract/src";

/// A test that the page names.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    file: PathBuf,
    /// A function, or in a Perl test a title.
    test: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Every `file::test` between backticks. Without a path the file, or a folder of that name, lies beside this one.
fn named(page: &str) -> Vec<Named> {
    let quoted = page.split('`').skip(1).step_by(2);
    let tests = quoted.filter_map(|it| it.split_once("::")).filter_map(|(file, test)| {
        let file = match Path::new(file).extension().and_then(|it| it.to_str()) {
            Some("rs" | "t") => PathBuf::from(file),
            None if is_name(file) => Path::new("tests/tests/it").join(file).with_extension("rs"),
            _ => return None,
        };
        (file.extension().is_some_and(|it| it == "t") || is_name(test))
            .then(|| Named { file, test: test.to_owned() })
    });
    tests.collect()
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|it| it.is_ascii_lowercase() || it == '_' || it.is_ascii_digit())
}

impl Named {
    fn is_there(&self) -> bool {
        let folder = self.file.with_extension("").join("mod.rs");
        let read = |file: &Path| std::fs::read_to_string(root().join(file));
        let text = read(&self.file).or_else(|_| read(&folder)).unwrap_or_default();
        if self.file.extension().is_some_and(|it| it == "t") {
            return text.contains(&format!("'{}'", self.test))
                || text.contains(&format!("\"{}\"", self.test));
        }
        if self.file.starts_with(CLAUSES) && text.contains(&format!("pub async fn {}(", self.test)) {
            return true;
        }
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let begins = format!("fn {}(", self.test);
        let at = lines.iter().position(|it| it.strip_prefix("async ").unwrap_or(it).starts_with(&begins));
        // Its attribute may have arguments, and comments and others may stand between.
        at.is_some_and(|at| {
            lines[at.saturating_sub(4)..at].iter().any(|it| it.starts_with("#[") && it.contains("test"))
        })
    }
}

#[test]
fn every_test_named_in_the_document_exists() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    let named = named(&page);
    assert!(named.len() > 100, "only {} tests are named", named.len());
    let missing: Vec<_> = named.iter().filter(|it| !it.is_there()).collect();
    assert!(missing.is_empty(), "{PAGE} names tests that are not there: {missing:#?}");
}

/// Each requirement that an earlier plugin's failures taught has one row, and each row says something.
#[test]
fn every_requirement_has_its_row() {
    let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
    for (letter, count) in [('S', 24), ('V', 25), ('L', 21), ('R', 17)] {
        for number in 1..=count {
            let begins = format!("| {letter}{number} |");
            let rows: Vec<&str> = page.lines().filter(|it| it.starts_with(&begins)).collect();
            assert_eq!(rows.len(), 1, "{letter}{number}: {rows:?}");
            let answer = rows[0].trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            let answers = ["cannot happen", "not yet"].iter().any(|it| answer.contains(it));
            assert!(answers || !self::named(answer).is_empty(), "{letter}{number} says nothing: {answer}");
        }
    }
}

#[test]
fn names_are_found_in_the_page_and_missing_ones_are_told() {
    let page = "a `verification::is_name`, `crates/a/src/b.rs::y`, `Plan::has_begun`, `settle` and `a/b.t::a caller that is killed`";
    let found = named(page);
    let shown: Vec<String> = found.iter().map(|it| format!("{} {}", it.file.display(), it.test)).collect();
    assert_eq!(
        shown,
        ["tests/tests/it/verification.rs is_name", "crates/a/src/b.rs y", "a/b.t a caller that is killed"]
    );
    assert!(found.iter().all(|it| !it.is_there()), "no test, or no file");
    let there =
        named("`verification::every_requirement_has_its_row` `crates/pve-bridge/perl/t/client.t::no daemon`");
    assert!(there.len() == 2 && there.iter().all(Named::is_there), "{there:?}");
}
