//! Starts a simulated array and serves it until it is stopped.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use san_sim::ontap::{Mark, OntapConfig, OntapSim, Outcome, Personality, PortalConfig, SvmConfig, Version};
use san_sim::server::{ControlServer, HttpsServer};
use san_sim::target::Target as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

/// Simulated SAN arrays: try a storage integration without an array.
#[derive(Parser)]
#[command(name = "sanbridge-sim", version)]
struct Cli {
    #[command(subcommand)]
    array: Array,
}

#[derive(Subcommand)]
enum Array {
    /// A NetApp ONTAP array with its REST API over HTTPS.
    Ontap(Box<Ontap>),
}

#[derive(Args)]
struct Ontap {
    /// ONTAP release, for example 9.12.1 or 9.16.1.
    #[arg(long, default_value = "9.16.1")]
    version: Version,
    /// Kind of system: fas, aff, asa (asar2 and afx only say that they are).
    #[arg(long, default_value = "aff")]
    personality: Personality,
    /// Address and port of the management API; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Further names or addresses that the certificate shall be good for.
    #[arg(long = "name")]
    names: Vec<String>,
    /// Folder for the LUNs' bytes and the certificate.
    #[arg(long, default_value = "sanbridge-sim-data")]
    data: PathBuf,
    /// Name of an SVM; repeat for more. Portals belong to the first.
    #[arg(long = "svm", default_value = "svm1")]
    svms: Vec<String>,
    /// The account.
    #[arg(long, default_value = "admin")]
    user: String,
    /// File with the account's password; without it the password is netapp1!
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// Time that every request takes, for example 5ms or 1s.
    #[arg(long, default_value = "0ms", value_parser = span)]
    latency: Duration,
    /// Address and port of an iSCSI portal; repeat for more. They are spread over two nodes.
    #[arg(long = "portal")]
    portals: Vec<SocketAddr>,
    /// Seed of identifiers and serial numbers; give every array its own.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON instead of text.
    #[arg(long)]
    json: bool,
    /// Write every request to stderr.
    #[arg(long, short)]
    verbose: bool,
}

/// `5ms`, `2s`, or a bare number of milliseconds.
fn span(text: &str) -> Result<Duration, String> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => text.strip_suffix('s').map_or((text, 1), |number| (number, 1000)),
    };
    let number: u64 = number.parse().map_err(|_| format!("\"{text}\" is not a time such as 5ms or 2s"))?;
    Ok(Duration::from_millis(number.saturating_mul(scale)))
}

#[tokio::main]
async fn main() -> ExitCode {
    let Array::Ontap(options) = Cli::parse().array;
    match serve(*options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be told when stderr is closed.
            drop(writeln!(io::stderr(), "sanbridge-sim: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Ontap) -> io::Result<()> {
    let mut stop = signal(SignalKind::terminate())?;
    let sim = OntapSim::new(config(&options)?)?;
    let api = HttpsServer::start(Arc::new(sim.clone()), options.listen, &options.names).await?;
    let controlled = sim.clone();
    let control = ControlServer::start(move |request| controlled.control(request)).await?;
    let authority = options.data.join("ca.pem");
    std::fs::write(&authority, api.certificate_pem())?;
    announce(&options, &sim, &api, &control, &authority)?;
    let log =
        async { if options.verbose { print_requests(&sim).await } else { std::future::pending().await } };
    tokio::select! {
        ended = log => ended,
        ended = tokio::signal::ctrl_c() => ended,
        _ = stop.recv() => Ok(()),
    }
}

fn config(options: &Ontap) -> io::Result<OntapConfig> {
    let mut config = OntapConfig::new(options.version, options.data.join("units"));
    config.personality = options.personality;
    config.seed = options.seed;
    config.user.clone_from(&options.user);
    config.pace.latency = options.latency;
    if let Some(file) = &options.password_file {
        let password = std::fs::read_to_string(file)?;
        config.password = password.trim_end_matches(['\r', '\n']).to_owned().into();
    }
    let svms = options.svms.iter().zip(0_u8..);
    config.svms = svms.map(|(name, at)| SvmConfig::new(name, [10, 0, at])).collect();
    if let (false, Some(first)) = (options.portals.is_empty(), config.svms.first_mut()) {
        let half = options.portals.len().div_ceil(2);
        let portal =
            |(at, address): (usize, &SocketAddr)| PortalConfig { address: *address, node: at / half };
        first.portals = options.portals.iter().enumerate().map(portal).collect();
    }
    Ok(config)
}

/// Tells how to reach the array.
fn announce(
    options: &Ontap,
    sim: &OntapSim,
    api: &HttpsServer,
    control: &ControlServer,
    authority: &std::path::Path,
) -> io::Result<()> {
    let portals: Vec<String> = sim.portals().iter().map(|it| it.address.to_string()).collect();
    let password = match &options.password_file {
        Some(file) => format!("in {}", file.display()),
        None => "netapp1!".to_owned(),
    };
    let mut out = io::stdout().lock();
    if options.json {
        let line = json!({
            "address": api.address(), "fingerprint": api.fingerprint().to_string(), "ca": authority,
            "control": control.address(), "user": options.user, "password": password, "svms": options.svms,
            "portals": portals, "version": options.version.to_string(),
        });
        writeln!(out, "{line}")?;
        return out.flush();
    }
    writeln!(out, "ONTAP {} at https://{}", options.version, api.address())?;
    writeln!(out, "  fingerprint  {}", api.fingerprint())?;
    writeln!(out, "  authority    {}", authority.display())?;
    writeln!(out, "  account      {} (password {password})", options.user)?;
    writeln!(out, "  SVMs         {}", options.svms.join(", "))?;
    writeln!(out, "  portals      {}", portals.join(", "))?;
    writeln!(out, "  control      http://{}/sim/state", control.address())?;
    out.flush()
}

/// Writes requests to stderr as they come.
async fn print_requests(sim: &OntapSim) -> io::Result<()> {
    let mut mark = Mark::START;
    loop {
        sim.next_request(mark).await;
        for entry in sim.requests(mark) {
            mark = Mark::after(entry.seq);
            let query = if entry.query.is_empty() { String::new() } else { format!("?{}", entry.query) };
            let status = match entry.outcome {
                Outcome::Answered(status) => status.to_string(),
                Outcome::Pending => "-".to_owned(),
                Outcome::Refused => "refused".to_owned(),
                Outcome::Reset => "reset".to_owned(),
                Outcome::Lost => "lost".to_owned(),
            };
            writeln!(io::stderr(), "{status} {} {}{query} ({})", entry.method, entry.path, entry.agent)?;
        }
    }
}
