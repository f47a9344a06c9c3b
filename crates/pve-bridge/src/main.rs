//! `sanbridge`: the node daemon, its helper processes, and the commands for people.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use san_core::{Deadline, Error, ErrorKind, NodeName, Result};
use san_host::{System, SystemConfig};
use san_multipath::{MultipathConfig, UnitSerial};
use sanbridge::cli::{self, Console, Exit, Screen};
use sanbridge::{Config, Daemon, HttpsWires};

/// SAN arrays under Proxmox VE.
#[derive(Parser)]
#[command(name = "sanbridge", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node daemon in the foreground (systemd starts it).
    Serve {
        /// This node's name in the cluster [default: the host name]
        #[arg(long)]
        node: Option<String>,
        /// Where to listen
        #[arg(long, default_value = "/run/sanbridge/sanbridge.sock")]
        socket: PathBuf,
        /// Where intents and attachment records are kept
        #[arg(long, default_value = "/var/lib/sanbridge")]
        state: PathBuf,
        /// What the unit serial number (VPD page 0x80) is worth: some targets that stand for an array in tests cannot
        /// show the array's
        #[arg(long, hide = true, value_enum, default_value_t = UnitSerialNumber::MustMatch)]
        unit_serial: UnitSerialNumber,
    },
    /// A helper process of the daemon: takes the calls that can hang in the kernel.
    #[command(hide = true)]
    Helper,
    #[command(flatten)]
    Ask(cli::Command),
}

/// The settings of [`UnitSerial`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UnitSerialNumber {
    MustMatch,
    Ignored,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Helper => san_host::helper_main(),
        Command::Serve { node, socket, state, unit_serial } => {
            init_log();
            let multipath = MultipathConfig {
                unit_serial: match unit_serial {
                    UnitSerialNumber::MustMatch => UnitSerial::MustMatch,
                    UnitSerialNumber::Ignored => UnitSerial::Ignored,
                },
                ..MultipathConfig::default()
            };
            match serve(node, |config| Config { socket, state, multipath, ..config }) {
                Ok(()) => Exit::Success.into(),
                // Whatever the log's filter: somebody wants to know why it does not run.
                Err(error) => on_console(|console| console.end(&error)).into(),
            }
        }
        Command::Ask(command) => on_console(|console| match ask(&command, console) {
            Ok(exit) => exit,
            Err(error) => console.end(&error),
        })
        .into(),
    }
}

fn ask(command: &cli::Command, console: &mut Console<'_>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot start the runtime").caused_by(error))?;
    Ok(runtime.block_on(command.run(console)))
}

fn on_console(work: impl FnOnce(&mut Console<'_>) -> Exit) -> Exit {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let (screen, messages) = (Screen::of(&out), Screen::of(&err));
    work(&mut Console::new(&mut out, screen, &mut err, messages))
}

fn init_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
}

fn serve(node: Option<String>, settings: impl FnOnce(Config) -> Config) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot start the runtime").caused_by(error))?;
    let result = runtime.block_on(serve_until_told(node, settings));
    // A call that hangs in the kernel must not keep the daemon from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve_until_told(node: Option<String>, settings: impl FnOnce(Config) -> Config) -> Result<()> {
    let node: NodeName = match node {
        Some(name) => name.parse()?,
        None => host_name()?,
    };
    let system = System::start(SystemConfig::new("/proc/self/exe", ["helper"]))?;
    let config = settings(Config::new(node));
    let mut end =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot listen for the signal to end").caused_by(error)
        })?;
    let daemon = Daemon::start(config, system, Arc::new(HttpsWires)).await?;
    tokio::select! {
        _ = end.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("ending");
    daemon.stop(Deadline::after(Duration::from_secs(60))).await
}

/// The host name without its domain, as PVE names nodes.
fn host_name() -> Result<NodeName> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().parse()
}
