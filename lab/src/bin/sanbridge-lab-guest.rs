//! `sanbridge-lab-guest`: runs groups of checks inside the lab's machine.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sanbridge_lab::guest::{Failure, REBOOT, Recorder, groups};

/// The lab's program inside the machine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one group of checks
    Run {
        /// Its name
        group: String,
        /// Verdicts are appended here, one JSON object a line
        #[arg(long)]
        verdicts: PathBuf,
        /// Only checks whose name contains this
        #[arg(long)]
        only: Option<String>,
        /// The number of this machine, where the group runs in two
        #[arg(long, default_value_t = 1)]
        node: u8,
    },
    /// Print the names of all groups
    Groups,
    /// A helper process: takes the calls that can hang in the kernel
    #[command(hide = true)]
    Helper,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::Helper) {
        san_host::helper_main()
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    match work(arguments.command) {
        Ok(code) => code,
        Err(failure) => {
            tracing::error!("{failure}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on its terminal")]
fn work(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Groups => {
            for group in groups() {
                println!("{}", group.name);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { group, verdicts, only, node } => {
            let found = groups().into_iter().find(|it| it.name == group);
            let group = found.ok_or_else(|| Failure(format!("there is no group {group}")))?;
            let lines = OpenOptions::new().create(true).append(true).open(verdicts)?;
            let recorder = Recorder::new(group.name, lines, only).in_node(node);
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let result = runtime.block_on((group.play)(recorder.clone()));
            // A call that hangs in the kernel must not keep this process from ending.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result?;
            Ok(if recorder.reboots() { ExitCode::from(REBOOT) } else { ExitCode::SUCCESS })
        }
        Command::Helper => Err(Failure("handled before".to_owned())),
    }
}
