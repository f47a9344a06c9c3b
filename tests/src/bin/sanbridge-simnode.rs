//! Lets nodes of a real Proxmox VE use a simulated array, until it is told to end.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use san_core::{Error, ErrorKind, NodeName, Result};
use san_sim::ontap::Version;
use sanbridge_tests::simnode::{LISTEN, Settings, SimNodes};
use tokio::signal::unix::{SignalKind, signal};

/// Sanbridge under a real Proxmox VE without a SAN.
///
/// Starts a simulated ONTAP array and, for every node, the Sanbridge daemon. Volumes are loop devices, so root is needed.
/// Prints one line of JSON when everything is ready: the nodes' folders, to be mounted at /run/sanbridge and
/// /dev/sanbridge of each, the array's address, fingerprint and account for `pvesm add sanbridge`, and the control port:
///
///   curl -X PUT http://PORT/sim/api -d '{"state":"refusing"}'   (or "up", "black_hole")
///
///   curl -X PUT http://PORT/nodes -d '{"name":"node1","daemon":"killed"}'   (or "running")
///
///   curl http://PORT/audit
///
/// Ends on SIGTERM or SIGINT, and detaches its loop devices. The array lives in memory: every start is a new, empty one.
#[derive(Parser)]
#[command(name = "sanbridge-simnode", version, verbatim_doc_comment)]
struct Arguments {
    /// A node's name in the cluster; repeat for more
    #[arg(long = "node", required = true)]
    nodes: Vec<String>,
    /// The folder that the nodes have at /etc/pve; of a cluster without volumes of another array
    #[arg(long)]
    pve: PathBuf,
    /// Folder for the nodes' sockets and device links
    #[arg(long)]
    run: PathBuf,
    /// Folder for the volumes' bytes, the daemons' records and the array's password; new, or of an earlier run
    #[arg(long)]
    data: PathBuf,
    /// Release of the simulated ONTAP
    #[arg(long, default_value = "9.16.1")]
    array_version: Version,
    /// Address and port of the array's management API; port 0 takes a free one
    #[arg(long, default_value_t = LISTEN)]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let remedy = error.remedy().unwrap_or_default();
            tracing::error!(error = %error.chain(), remedy, "cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let internal =
        |doing: &'static str| move |error: io::Error| Error::new(ErrorKind::Internal, doing).caused_by(error);
    let nodes: Vec<NodeName> = arguments.nodes.iter().map(|it| it.parse()).collect::<Result<_>>()?;
    let Arguments { pve, run, data, array_version: version, listen, .. } = arguments;
    // Taken before anything is there that would have to be cleaned up.
    let mut stop = signal(SignalKind::terminate()).map_err(internal("cannot wait for signals"))?;
    let mut simulation = SimNodes::start(Settings { nodes, pve, run, data, version, listen }).await?;
    let mut out = io::stdout();
    writeln!(out, "{}", simulation.announcement())
        .and_then(|()| out.flush())
        .map_err(internal("cannot print"))?;
    tokio::select! {
        () = simulation.serve() => {}
        _ = stop.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("ending");
    simulation.end().await
}
