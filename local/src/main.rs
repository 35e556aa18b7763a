//! `cargo run`: the whole system on this machine.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use local::{Clock, Database, Options, StartError, System, private};
use mimalloc::MiMalloc;
use serde_json::{Value, json};
use shared::domain::credential::Token;
use shared::domain::failure::StoreError;
use shared::runtime::function::JobError;
use shared::store::endpoint_url;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The engine allocates thousands of times per request, on several threads; this is a fourth faster than the C
/// library's. (A function is better off without: it would start slower and hold twice the memory.)
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Rollcall knows which of your AI agents are alive. This runs the whole of it in one process: what
/// template.yaml declares, over an embedded DynamoDB engine.
#[derive(Parser)]
#[command(name = "rollcall-local", version)]
struct Arguments {
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 3000)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Folder for the data and the first tokens
    #[arg(long, value_name = "DIR", default_value = ".rollcall")]
    data: PathBuf,
    /// Keep the data in memory: it is gone when the process ends
    #[arg(long, conflicts_with_all = ["data", "dynamodb"])]
    memory: bool,
    /// Use the DynamoDB endpoint at this URL instead of the embedded engine
    #[arg(long, value_name = "URL", value_parser = endpoint_url)]
    dynamodb: Option<String>,
    /// Loopback port on which the embedded engine answers the AWS CLI and SDKs, to look into the tables
    #[arg(long, value_name = "PORT", conflicts_with = "dynamodb")]
    dynamodb_port: Option<u16>,
    /// Who may register: anybody, or holders of an enrollment token
    #[arg(long, value_enum, default_value_t = Registration::Open)]
    registration: Registration,
    /// What verifies an agent: its own key, or an operator
    #[arg(long, value_enum, default_value_t = Approval::Key)]
    approval: Approval,
    /// Seconds between two sweeps, instead of the template's minute
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=A_YEAR))]
    sweep_every: Option<u64>,
    /// Value of another of the template's parameters; may be given again
    #[arg(long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    parameter: Vec<(String, String)>,
    /// Template to run instead of the shipped one
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Registration {
    Open,
    Enrollment,
}

#[derive(Clone, Copy, ValueEnum)]
enum Approval {
    Key,
    Operator,
}

/// In seconds: longer than any run, and short enough to be added to an instant.
const A_YEAR: u64 = 365 * 24 * 60 * 60;

fn name_and_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    match name {
        "Registration" => Err("use --registration".to_owned()),
        "Approval" => Err("use --approval".to_owned()),
        _ => Ok((name.to_owned(), value.to_owned())),
    }
}

/// Why the process ends: one line.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("first token: {0}")]
    Mint(#[from] JobError),
    #[error("first token: {0}")]
    Store(#[from] StoreError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("signals: {0}")]
    Signals(io::Error),
    #[error("the template has no mint-token function")]
    NoMint,
}

/// The functions' log, in lines for people. The engine's own warnings are about requests that the functions expect
/// to be refused, and the HTTP client's about receivers that answer nonsense: that is in their deliveries.
fn log() {
    let targets = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("aws_smithy_http_client", LevelFilter::ERROR)
        .with_target("dynoxide", LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().with_target(false).with_writer(io::stderr);
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
}

#[tokio::main]
async fn main() -> ExitCode {
    log();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and the version come as errors, too.
        Err(wanted) if !wanted.use_stderr() => wanted.exit(),
        Err(wrong) => return refuse(one_line(&wrong)),
    };
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => refuse(failure),
    }
}

fn refuse(why: impl fmt::Display) -> ExitCode {
    eprintln!("rollcall: {why}");
    ExitCode::FAILURE
}

/// What is wrong with the arguments and what may help, without the usage.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let said = lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let said = said.collect::<Vec<_>>().join(" ");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let data = arguments.data.clone();
    let database = match (&arguments.dynamodb, arguments.memory) {
        (Some(url), _) => Database::Endpoint(url.clone()),
        (None, true) => Database::Memory,
        (None, false) => Database::Folder(data.clone()),
    };
    let word = |value: Option<clap::builder::PossibleValue>| {
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    };
    let registration = word(arguments.registration.to_possible_value());
    let approval = word(arguments.approval.to_possible_value());
    let mut parameters = BTreeMap::from_iter(arguments.parameter);
    parameters.insert("Registration".to_owned(), registration.clone());
    parameters.insert("Approval".to_owned(), approval.clone());
    if !matches!(database, Database::Endpoint(_)) {
        // The embedded engine sorts the whole table for every page of a segment.
        parameters.entry("SweepSegments".to_owned()).or_insert_with(|| "1".to_owned());
    }
    let targets = parameters.entry("WebhookTargets".to_owned()).or_insert_with(|| "any".to_owned()).clone();
    let defaults = Options::default();
    let options = Options {
        template: arguments.template.unwrap_or(defaults.template),
        parameters,
        database,
        dynamodb_port: arguments.dynamodb_port.unwrap_or_default(),
        table_prefix: defaults.table_prefix,
        listen: arguments.listen,
        port: arguments.port,
        clock: Clock::default(),
        schedules: Some(arguments.sweep_every.map(Duration::from_secs)),
        timeouts: defaults.timeouts,
        request_budget: defaults.request_budget,
        patience: defaults.patience,
        console: true,
    };
    let (mut interrupted, mut terminated) = signals().map_err(Failure::Signals)?;
    let mut system = System::start_closed(options).await?;
    let url = format!("http://{}", system.address());
    let kept_in = |file: &str| (!arguments.memory).then(|| data.join(file));
    let operator = json!({ "kind": "operator", "label": "first operator" });
    let operator = FirstToken::of(&system, kept_in("operator-token"), &operator).await?;
    let (enrollment, header) = match arguments.registration {
        Registration::Open => Default::default(),
        Registration::Enrollment => {
            let token = json!({ "kind": "enrollment", "label": "first enrollment", "all_boards": true });
            let token = FirstToken::of(&system, kept_in("enrollment-token"), &token).await?;
            let header = format!(" -H 'x-agent-token: {}'", token.token.reveal());
            (format!("  enrollment token  {token}\n"), header)
        }
    };
    let engine = arguments.dynamodb_port.map_or_else(String::new, |_| {
        format!("  DynamoDB        {}  (AWS CLI and SDKs, any credentials)\n", system.database_url())
    });
    let operators = operator.export();
    let place = match (&arguments.dynamodb, arguments.memory) {
        (Some(url), _) => format!("DynamoDB at {url}"),
        (None, true) => "in memory, gone when this process ends".to_owned(),
        (None, false) => data.display().to_string(),
    };
    // The tokens are in their files before the first answer: who waits for `/readyz` finds them.
    system.open();
    say(format_args!(
        "Rollcall listens on {url}\n\
         \x20 data            {place}\n\
         {engine}\
         \x20 registration    {registration}  (--registration open | enrollment)\n\
         \x20 approval        {approval}  (--approval key | operator)\n\
         \x20 webhook targets {targets}  (--parameter WebhookTargets=public | any)\n\
         \x20 operator token  {operator}\n\
         {enrollment}\
         \x20 page            {url}/#token={}\n\
         \n\
         Register an agent:\n\
         \x20 curl -sS {url}/api/agents/register -H 'content-type: application/json'{header} -d '{{\"name\": \"researcher-1\"}}'\n\
         \n\
         As an operator, in a terminal in any folder:\n\
         \x20 {operators}\n\
         \n\
         Ctrl-C stops it.",
        operator.token.reveal()
    ));
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    say(format_args!("Stopping."));
    system.stop().await;
    Ok(())
}

/// Prints a line to whoever still reads: `cargo run | head` goes on without a reader.
fn say(line: fmt::Arguments<'_>) {
    writeln!(io::stdout(), "{line}").ok();
}

fn signals() -> io::Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)> {
    Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
}

/// The first token of its kind: what a deployment gets by `aws lambda invoke`.
struct FirstToken {
    token: Token,
    file: Option<PathBuf>,
}

impl FirstToken {
    /// The token in the file, if the database still knows it; else a new one, which is put there.
    async fn of(system: &System, file: Option<PathBuf>, request: &Value) -> Result<Self, Failure> {
        const MINT: &str = "mint-token";
        if let Some(file) = &file {
            let kept = match std::fs::read_to_string(file) {
                Ok(text) => Token::parse(text.trim()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(source) => return Err(Failure::File { path: file.clone(), source }),
            };
            if let Some(token) = kept {
                let app = system.app_of_job(MINT).ok_or(Failure::NoMint)?;
                let now = system.clock().now();
                if app.store.token(&token).await?.is_some_and(|row| row.is_valid(now)) {
                    return Ok(Self { token, file: Some(file.clone()) });
                }
            }
        }
        let minted = system.run_job(MINT, &request.to_string()).await.ok_or(Failure::NoMint)??;
        let token = minted["token"].as_str().and_then(Token::parse).ok_or(Failure::NoMint)?;
        if let Some(file) = &file {
            keep(file, &token).map_err(|source| Failure::File { path: file.clone(), source })?;
        }
        Ok(Self { token, file })
    }
}

impl FirstToken {
    /// The file's path, which holds in any folder.
    fn path(&self) -> Option<PathBuf> {
        let file = self.file.as_ref()?;
        Some(std::path::absolute(file).unwrap_or_else(|_| file.clone()))
    }

    /// The line that puts the token into a shell's environment.
    fn export(&self) -> String {
        let value = self.path().map_or_else(
            || self.token.reveal(),
            |path| format!("\"$(cat '{}')\"", path.display().to_string().replace('\'', "'\\''")),
        );
        format!("export ROLLCALL_OPERATOR_TOKEN={value}")
    }
}

impl fmt::Display for FirstToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token.reveal())?;
        self.path().map_or(Ok(()), |path| write!(f, "  (kept in {})", path.display()))
    }
}

/// Writes the token to a file that only its owner can read, whole or not at all.
fn keep(file: &Path, token: &Token) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        private::folder(folder)?;
    }
    let draft = file.with_extension("new");
    // A draft that a crash left behind may have other rights.
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(written, "{}", token.reveal())?;
    written.sync_all()?;
    std::fs::rename(&draft, file)
}
