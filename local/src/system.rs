//! The system that the template declares, running.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use serde_json::Value;
use shared::config::{Config, ConfigError, Setting};
use shared::domain::event::EventIds;
use shared::runtime::app::{App, REQUEST_BUDGET};
use shared::runtime::function::{Function, Job, JobError};
use shared::store::Timeouts;
use shared::wire::error::Invalid;
use shared::wire::sender::Patience;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::clock::Clock;
use crate::console;
use crate::database::{Connection, Database, DatabaseError};
use crate::gateway::{Mounted, router};
use crate::policy::Policy;
use crate::streams::{StreamInvocation, StreamReader};
use crate::template::{Permission, Place, Schedule, Template, TemplateError, Trigger};

/// How often rows are removed whose time to live is over.
const TTL_EVERY: Duration = Duration::from_mins(1);

/// How often the streams are read.
const STREAMS_EVERY: Duration = Duration::from_millis(200);

/// How long a stopping system waits for the requests that it is answering.
const STOPPING_TIME: Duration = Duration::from_secs(10);

/// How to run the template.
#[derive(Clone, Debug)]
pub struct Options {
    /// The template's file.
    pub template: PathBuf,
    /// Values for the template's parameters.
    pub parameters: BTreeMap<String, String>,
    /// Where the data is.
    pub database: Database,
    /// The loopback port on which the embedded engine answers any client of DynamoDB; 0 takes a free one.
    pub dynamodb_port: u16,
    /// What the tables' names begin with.
    pub table_prefix: String,
    /// The address to listen on.
    pub listen: IpAddr,
    /// The port to listen on; 0 takes a free one.
    pub port: u16,
    /// The functions' clock.
    pub clock: Clock,
    /// Whether the template's schedules run, and a period to run them at instead of their own.
    pub schedules: Option<Option<Duration>>,
    /// How long the functions wait for the database.
    pub timeouts: Timeouts,
    /// How long a request may take in all.
    pub request_budget: Duration,
    /// How long an attempt to deliver waits for its receiver.
    pub patience: Patience,
    /// Whether standard output tells which agents died and which are back.
    pub console: bool,
}

impl Default for Options {
    /// The shipped template, in memory, on a free loopback port, with its schedules.
    fn default() -> Self {
        Self {
            template: concat!(env!("CARGO_MANIFEST_DIR"), "/../template.yaml").into(),
            parameters: BTreeMap::new(),
            database: Database::Memory,
            dynamodb_port: 0,
            table_prefix: "rollcall".to_owned(),
            listen: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            clock: Clock::default(),
            schedules: Some(None),
            timeouts: Timeouts::default(),
            request_budget: REQUEST_BUDGET,
            patience: Patience::default(),
            console: false,
        }
    }
}

/// Why the system does not start: one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or not ours to take.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The template's file cannot be read.
    #[error("{}: {source}", path.display())]
    TemplateFile {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The template is broken, or beyond the local system.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The template names a function that the code does not have.
    #[error("the template's function {0} runs the binary {1:?}, which does not exist")]
    NoSuchBinary(String, String),
    /// The template gives an endpoint a trigger for jobs, or a job a route.
    #[error("the template's function {0}: the binary {1:?} cannot be invoked by {2}")]
    Trigger(String, String, &'static str),
    /// A stream of the template cannot be read.
    #[error("the template's function {0}: its stream: {1}")]
    Stream(String, String),
    /// The template gives a function a broken environment.
    #[error("the template's function {0}: {1}")]
    Environment(String, ConfigError),
    /// The template's routes or CORS do not make sense.
    #[error("the template's API: {0}")]
    Api(String),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// A job with its environment.
struct MountedJob {
    job: Job,
    app: &'static App,
    timeout: Duration,
}

/// The running system. [`System::stop`] ends it; dropping it leaves its requests unanswered.
pub struct System {
    address: SocketAddr,
    clock: Clock,
    database: Arc<Connection>,
    jobs: Arc<BTreeMap<String, MountedJob>>,
    policies: Vec<Arc<Policy>>,
    streams: Arc<Vec<StreamReader>>,
    stopping: watch::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
    closed: Option<Closed>,
}

/// What begins when the system opens.
struct Closed {
    listener: TcpListener,
    router: Router,
    /// None: time does not run here.
    schedules: Option<Vec<(String, Schedule)>>,
}

impl System {
    /// Starts everything that the template declares.
    ///
    /// # Errors
    /// One line that says what stands in the way.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let mut system = Self::start_closed(options).await?;
        system.open();
        Ok(system)
    }

    /// Starts everything but the answers: jobs can be run, and who calls the port waits until
    /// [`open`](Self::open).
    ///
    /// # Errors
    /// One line that says what stands in the way.
    pub async fn start_closed(options: Options) -> Result<Self, StartError> {
        let address = SocketAddr::new(options.listen, options.port);
        let listener =
            TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
        let template = read_template(&options, &url_of(address))?;
        let database =
            Arc::new(Connection::open(&options.database, options.dynamodb_port, options.timeouts).await?);
        database.create_tables(&template.tables).await?;
        let client =
            if options.console { console::watched(&database.client) } else { database.client.clone() };

        let event_ids = EventIds::default();
        let (mut routes, mut jobs, mut schedules) = (Vec::new(), BTreeMap::new(), Vec::new());
        let (mut policies, mut streams) = (Vec::new(), Vec::new());
        for mut function in template.functions {
            if let (Some(Some(period)), Some(seconds)) =
                (options.schedules, function.environment.get_mut(Setting::SweepEvery.variable()))
            {
                // Beside the schedule, what the sweep knows of it.
                *seconds = period.as_secs().to_string();
            }
            let Some(code) = functions::function(&function.binary) else {
                return Err(StartError::NoSuchBinary(function.logical_id, function.binary));
            };
            let config = Config::read(code.reads(), |name| function.environment.get(name).cloned())
                .map_err(|error| StartError::Environment(function.logical_id.clone(), error))?;
            let policy = Arc::new(Policy::new(function.logical_id.clone(), function.permissions));
            // One environment per function, as on Lambda, for the life of the process.
            let mut app = App::new(config, policy.client(&client), event_ids.clone());
            app.request_budget = options.request_budget;
            app.patience = options.patience;
            app.metrics = |_line| {};
            let app: &'static App = Box::leak(Box::new(app));
            let (id, binary) = (&function.logical_id, &function.binary);
            if let Function::Job(job) = code {
                jobs.insert(binary.clone(), MountedJob { job, app, timeout: function.timeout });
            }
            for trigger in function.triggers {
                let wrong = |trigger| Err(StartError::Trigger(id.clone(), binary.clone(), trigger));
                match (trigger, code) {
                    (Trigger::HttpApi(route), Function::Endpoint(endpoint)) => {
                        let (handler, clock) = (endpoint.handler, options.clock.clone());
                        routes.push((route, Arc::new(Mounted { handler, app, clock })));
                    }
                    (Trigger::Schedule(schedule), Function::Job(_)) => {
                        schedules.push((binary.clone(), schedule));
                    }
                    (Trigger::Stream(mapping), Function::Job(_)) => {
                        let reader = StreamReader::open(&database, &policy, binary.clone(), mapping).await;
                        streams.push(reader.map_err(|why| StartError::Stream(id.clone(), why))?);
                    }
                    (Trigger::HttpApi(_), Function::Job(_)) => return wrong("a route"),
                    (Trigger::Schedule(_), Function::Endpoint(_)) => return wrong("a schedule"),
                    (Trigger::Stream(_), Function::Endpoint(_)) => return wrong("a stream"),
                }
            }
            policies.push(policy);
        }
        let router = router(routes, template.cors.as_ref()).map_err(StartError::Api)?;
        let schedules = options.schedules.map(|period| {
            for (_, schedule) in &mut schedules {
                schedule.every = period.unwrap_or(schedule.every);
            }
            schedules
        });
        Ok(Self {
            address,
            clock: options.clock,
            database,
            jobs: Arc::new(jobs),
            policies,
            streams: Arc::new(streams),
            stopping: watch::Sender::new(()),
            tasks: Vec::new(),
            closed: Some(Closed { listener, router, schedules }),
        })
    }

    /// Answers requests, runs the schedules and reads the streams from now on.
    pub fn open(&mut self) {
        let Some(Closed { listener, router, schedules }) = self.closed.take() else { return };
        let mut stopped = self.stopping.subscribe();
        let server = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
            .with_graceful_shutdown(async move {
                let _gone = stopped.changed().await;
            });
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = server.await {
                eprintln!("the server stopped: {error}");
            }
        }));
        if let Some(schedules) = schedules {
            self.run_schedules(schedules);
            self.read_streams();
        }
    }

    fn run_schedules(&mut self, schedules: Vec<(String, Schedule)>) {
        for (binary, schedule) in schedules {
            let (jobs, clock) = (Arc::clone(&self.jobs), self.clock.clone());
            // At once, too: time before the first sweep counts against no agent, and ends here.
            self.every(Duration::ZERO, schedule.every, move || {
                let (jobs, clock, binary, input) =
                    (Arc::clone(&jobs), clock.clone(), binary.clone(), schedule.input.clone());
                async move {
                    if let Some(Err(error)) = run_job(&jobs, &clock, &binary, &input).await {
                        eprintln!("{binary}: {error}");
                    }
                }
            });
        }
        // At once, too: a system that runs for a moment every day would never come to its first minute.
        let database = Arc::clone(&self.database);
        self.every(Duration::ZERO, TTL_EVERY, move || {
            let database = Arc::clone(&database);
            async move {
                if let Err(error) = database.expire_rows().await {
                    eprintln!("time to live: {error}");
                }
            }
        });
    }

    fn read_streams(&mut self) {
        for at in 0..self.streams.len() {
            let (streams, jobs, clock) =
                (Arc::clone(&self.streams), Arc::clone(&self.jobs), self.clock.clone());
            // Five times a second the same would be no news.
            let told = Arc::new(AtomicBool::new(false));
            self.every(STREAMS_EVERY, STREAMS_EVERY, move || {
                let (streams, jobs, clock) = (Arc::clone(&streams), Arc::clone(&jobs), clock.clone());
                let told = Arc::clone(&told);
                async move {
                    match round(&streams[at], &jobs, &clock).await {
                        Ok(invocations) => {
                            told.store(false, Ordering::Relaxed);
                            for (binary, outcome) in invocations {
                                if let Err(error) = outcome {
                                    eprintln!("{binary}: {error}");
                                }
                            }
                        }
                        Err(error) if !told.swap(true, Ordering::Relaxed) => eprintln!("stream: {error}"),
                        Err(_) => {}
                    }
                }
            });
        }
    }

    /// Does `work` `first` from now and again and again, never twice at once, until the system stops.
    fn every<Done: Future<Output = ()> + Send>(
        &mut self,
        first: Duration,
        period: Duration,
        work: impl Fn() -> Done + Send + 'static,
    ) {
        let mut stopped = self.stopping.subscribe();
        self.tasks.push(tokio::spawn(async move {
            let mut ticks = interval_at(Instant::now() + first, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        // As in Lambda, a panic ends one invocation and none of the next. Its hook has told it.
                        let _panicked = AssertUnwindSafe(work()).catch_unwind().await;
                    }
                    _ = stopped.changed() => return,
                }
            }
        }));
    }

    /// Where the system listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the database answers: the embedded engine's URL, or the other endpoint's.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database.url
    }

    /// Invokes a job by its binary's name, as a schedule or IAM would. `None`: there is no such job.
    pub async fn run_job(&self, binary: &str, input: &str) -> Option<Result<Value, JobError>> {
        run_job(&self.jobs, &self.clock, binary, input).await
    }

    /// Reads every stream once, and hands what it holds to its functions; says what came of each invocation.
    ///
    /// # Errors
    /// A stream cannot be read.
    pub async fn pump(&self) -> Result<Vec<StreamInvocation>, String> {
        let mut invocations = Vec::new();
        for stream in self.streams.iter() {
            invocations.extend(round(stream, &self.jobs, &self.clock).await?);
        }
        Ok(invocations)
    }

    /// The environment of a job, by its binary's name.
    #[must_use]
    pub fn app_of_job(&self, binary: &str) -> Option<&'static App> {
        self.jobs.get(binary).map(|mounted| mounted.app)
    }

    /// The functions' clock.
    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What the template's policies allow functions and no call has needed so far, by the function's logical id.
    #[must_use]
    pub fn unused_permissions(&self) -> Vec<(String, Permission)> {
        let unused = |policy: &Arc<Policy>| {
            policy.unused().map(|unused| (policy.function().to_owned(), unused.clone())).collect::<Vec<_>>()
        };
        self.policies.iter().flat_map(unused).collect()
    }

    /// What calls of functions needed so far and the template's policies do not allow them. They were refused.
    #[must_use]
    pub fn refused_permissions(&self) -> Vec<(String, Permission)> {
        let refused = |policy: &Arc<Policy>| {
            let refused = policy.refused().into_iter();
            refused.map(|refused| (policy.function().to_owned(), refused)).collect::<Vec<_>>()
        };
        self.policies.iter().flat_map(refused).collect()
    }

    /// Answers the requests under way, takes no more, and closes the database.
    pub async fn stop(self) {
        drop(self.stopping);
        let all = async {
            for task in self.tasks {
                let _ended = task.await;
            }
        };
        let _in_time = timeout(STOPPING_TIME, all).await;
    }
}

/// Reads a stream once.
async fn round(
    stream: &StreamReader,
    jobs: &BTreeMap<String, MountedJob>,
    clock: &Clock,
) -> Result<Vec<StreamInvocation>, String> {
    let invoke = async |event: String| match run_job(jobs, clock, stream.binary(), &event).await {
        Some(outcome) => outcome.map_err(|error| error.to_string()),
        None => Err("no such job".to_owned()),
    };
    stream.round(invoke).await
}

/// Where this machine finds what listens there: an unspecified address is called by loopback.
fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

fn read_template(options: &Options, api_url: &str) -> Result<Template, StartError> {
    let path = &options.template;
    let text = std::fs::read_to_string(path)
        .map_err(|source| StartError::TemplateFile { path: path.clone(), source })?;
    let file_name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    let table_name = |logical_id: &str| format!("{}-{logical_id}", options.table_prefix);
    let place = Place { table_name: &table_name, api_url };
    Ok(Template::read(&file_name, &text, &options.parameters, place)?)
}

async fn run_job(
    jobs: &BTreeMap<String, MountedJob>,
    clock: &Clock,
    binary: &str,
    input: &str,
) -> Option<Result<Value, JobError>> {
    let mounted = jobs.get(binary)?;
    let deadline = Instant::now() + mounted.timeout;
    let input = match serde_json::from_str(input) {
        Ok(input) => input,
        Err(error) => return Some(Err(Invalid::new("input", error.to_string()).into())),
    };
    Some((mounted.job.work)(mounted.app, input, clock.now(), deadline).await)
}
