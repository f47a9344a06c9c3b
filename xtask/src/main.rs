//! `cargo xtask demo | test | bench | lab`: starts cargo and the project's programs, and nothing else. Depends on nothing of
//! the workspace, so that it builds in a second.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
cargo xtask demo [--json]   the main job, on simulated arrays and nodes
cargo xtask test            everything that has to hold; installs what it needs on Debian when root
cargo xtask bench [--json]  requests, programs and waits per operation, against the budgets
cargo xtask crash [--json]  every operation killed at every boundary of every effect, ended, and audited; see --help
cargo xtask faults [--json] every operation with every trouble at every request it sends, mended, and audited; see --help
cargo xtask lab ...         a machine with a real kernel, real tools and kernel targets: up, run, shell, down; see --help
";

/// What went wrong, in words for people.
type Failure = String;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    let result = match command.to_str() {
        Some("demo") => program("sanbridge-tests", "demo", rest),
        Some("bench") => program("sanbridge-tests", "bench", rest),
        Some("crash") => program("sanbridge-tests", "crash", rest),
        Some("faults") => program("sanbridge-tests", "faults", rest),
        Some("lab") => program("sanbridge-lab", "lab", rest),
        Some("test") if rest.is_empty() => test(),
        Some("--help" | "-h" | "help") => {
            say(USAGE);
            Ok(())
        }
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on its terminal")]
fn say(message: &str) {
    println!("{}", message.trim_end());
}

#[expect(clippy::print_stderr, reason = "a command line tool speaks on its terminal")]
fn complain(message: &str) {
    eprintln!("{}", message.trim_end());
}

/// Runs a program of one of the members.
fn program(package: &str, name: &str, arguments: Vec<OsString>) -> Result<(), Failure> {
    let mut run = cargo(&["run", "--quiet", "--package", package, "--bin", name, "--"]);
    run.args(arguments);
    succeed(run)
}

/// Format, lints, tests, documentation, the Perl side, and the real kernel where this computer can carry it.
fn test() -> Result<(), Failure> {
    require_prove()?;
    let steps: [&[&str]; 5] = [
        &["fmt", "--all", "--check"],
        &["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
        &["build", "--quiet", "--workspace", "--bins", "--locked"],
        &["test", "--workspace", "--locked"],
        &["doc", "--quiet", "--workspace", "--no-deps", "--locked"],
    ];
    for step in steps {
        complain(&format!("== cargo {}", step.join(" ")));
        let mut command = cargo(step);
        if step[0] == "doc" {
            command.env("RUSTDOCFLAGS", "-D warnings");
        }
        succeed(command)?;
    }
    complain("== prove crates/pve-bridge/perl/t");
    let mut prove = command("prove");
    prove.arg("crates/pve-bridge/perl/t");
    succeed(prove)?;
    complain("== lab run --group smoke");
    let smoke = ["run", "--group", "smoke", "--or-skip"].map(OsString::from);
    program("sanbridge-lab", "lab", smoke.into())
}

/// `prove` comes with Debian's package perl; a minimal system has perl-base only.
fn require_prove() -> Result<(), Failure> {
    let has_prove = |path: &str| Path::new(path).is_file();
    if std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|it| it.join("prove").is_file())
        || has_prove("/usr/bin/prove")
    {
        return Ok(());
    }
    complain("== installing perl");
    let install = |arguments: &[&str]| {
        let mut apt = command("apt-get");
        apt.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        succeed(apt)
    };
    install(&["update", "-q"])
        .and_then(|()| install(&["install", "-q", "-y", "--no-install-recommends", "perl"]))
        .map_err(|error| format!("{error}\nthe tests need the program prove: apt-get install perl (as root)"))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments);
    cargo
}

#[expect(clippy::disallowed_methods, reason = "this is a tool of the developers, not a part of the product")]
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    command.current_dir(root);
    command
}

fn succeed(mut command: Command) -> Result<(), Failure> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?} ended with {status}")),
        Err(error) => Err(format!("{command:?} cannot be started: {error}")),
    }
}
