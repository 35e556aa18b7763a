//! From the start of a process to its first `/next`, and to its first answer, over TLS.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::binaries::Binaries;
use crate::calls;
use crate::figures::{Sample, figure};
use crate::process::{cpu, megabytes, peak_memory};
use crate::report::{Report, Table};
use crate::stack::Stack;
use crate::support::runtime_api::LambdaProcess;

const STARTS: usize = 30;

/// What is started.
struct Contender {
    name: String,
    command: Box<dyn Fn() -> Command>,
    event: Value,
    /// The status of a good answer, if it has one.
    status: Option<u16>,
    /// Until it connects to the database, in ms.
    to_connection: Sample,
    to_poll: Figures,
    to_answer: Figures,
}

/// Wall and processor time in ms, memory in MB.
#[derive(Default)]
struct Figures {
    wall: Sample,
    cpu: Sample,
    memory: Sample,
}

impl Figures {
    fn take(&mut self, wall: Option<Duration>, pid: u32) {
        self.wall.push_millis(wall.expect("it was waited for"));
        self.cpu.push_millis(cpu(pid));
        self.memory.push(megabytes(peak_memory(pid)));
    }
}

impl Contender {
    fn new(name: &str, command: impl Fn() -> Command + 'static, event: Value, status: Option<u16>) -> Self {
        let (name, command) = (name.to_owned(), Box::new(command));
        let (to_connection, to_poll, to_answer) = Default::default();
        Self { name, command, event, status, to_connection, to_poll, to_answer }
    }

    /// One start that waits for an invocation, and one that finds it waiting.
    async fn start(&mut self, stack: &Stack) {
        let environment = stack.environment();
        let spawn = || LambdaProcess::spawn_command(self.name.clone(), (self.command)(), &environment);

        stack.tls.take_last_client();
        let idle = spawn().await;
        idle.ready().await;
        assert!(idle.is_alive(), "{} ended: {}", self.name, idle.logs().join("\n"));
        if let Some(connected) = stack.tls.take_last_client() {
            self.to_connection.push_millis(connected - idle.started());
        }
        self.to_poll.take(idle.time_to_first_poll(), idle.pid());
        idle.stop().await;

        let invoked = spawn().await;
        let answer = invoked.invoke(self.event.clone()).await.answer();
        let status = answer["statusCode"].as_u64();
        assert_eq!(status, self.status.map(u64::from), "{}: {answer} {:?}", self.name, invoked.logs());
        invoked.ready().await;
        self.to_answer.take(invoked.time_to_first_answer(), invoked.pid());
        invoked.stop().await;
    }
}

pub async fn measure(binaries: &Binaries, report: &mut Report) {
    let stack = Stack::start(binaries).await;
    let mut contenders = contenders(binaries, &stack);
    for _ in 0..STARTS {
        for contender in &mut contenders {
            contender.start(&stack).await;
        }
    }
    let of = |name: &str| contenders.iter().find(|contender| contender.name == name).expect("a contender");
    let (empty, heartbeat) = (of("empty"), of("heartbeat"));

    let mut to_poll =
        Table::new(["", "wall, × empty", "wall, ms", "CPU, ms", "peak RSS, MB", "until it connects, ms"]);
    let mut to_answer = Table::new(["", "wall, × empty", "wall, ms", "CPU, ms", "peak RSS, MB"]);
    for contender in &contenders {
        let line = |figures: &Figures, empty: &Figures| {
            [
                contender.name.clone(),
                figure(figures.wall.over(&empty.wall).median()),
                figures.wall.show(),
                figures.cpu.show(),
                figure(figures.memory.median()),
            ]
        };
        let connects = &contender.to_connection;
        let connects = if connects.is_empty() { String::new() } else { connects.show() };
        to_poll.row([line(&contender.to_poll, &empty.to_poll).as_slice(), &[connects]].concat());
        to_answer.row(line(&contender.to_answer, &empty.to_answer));
    }
    report.table("cold-start-next", &to_poll);
    report.table("cold-start-answer", &to_answer);

    let over_empty = |sample: &Sample| sample.over(&empty.to_poll.wall).median();
    let (whole, client) = (over_empty(&heartbeat.to_poll.wall), over_empty(&heartbeat.to_connection));
    let bound = "≤ 2 × wall";
    let figures = "exec to first `/next`, heartbeat, against the empty binary";
    report.open_goal(figures, bound, format!("{} ×", figure(whole)), whole <= 2.0);
    let figures = "the same until it connects to DynamoDB, which it does before `/next`";
    report.goal(figures, bound, format!("{} ×", figure(client)), client <= 2.0);
    for (rival, name, to_poll, to_answer) in [("node", "Node", 30.0, 10.0), ("python", "Python", 60.0, 15.0)]
    {
        let rival = of(rival);
        for (figures, theirs, own, bound) in [
            ("exec to first `/next`", &rival.to_poll, &heartbeat.to_poll, to_poll),
            ("exec to first answer with TLS", &rival.to_answer, &heartbeat.to_answer, to_answer),
        ] {
            let ratio = theirs.wall.over(&own.wall).median();
            let figures = format!("{figures}, against {name} with its SDK");
            let (bound, reached) = (format!("≥ {bound} × faster"), ratio >= bound);
            report.goal(&figures, &bound, format!("{} ×", figure(ratio)), reached);
        }
    }
}

fn contenders(binaries: &Binaries, stack: &Stack) -> Vec<Contender> {
    let beat = calls::heartbeat(&stack.fleet).event();
    let binary = |name: &str, event: Value, status: Option<u16>| {
        let path = binaries.path(name);
        Contender::new(name, move || Command::new(&path), event, status)
    };
    let good = Some(200);
    let mut contenders = vec![binary("empty", beat.clone(), good), binary("bare-update", beat.clone(), good)];
    let served = calls::all(&stack.fleet);
    let jobs = [
        ("sweep", json!({ "source": "rollcall.sweep" })),
        ("deliver", json!({ "source": "rollcall.deliver" })),
        ("mint-token", json!({ "kind": "operator" })),
    ];
    let jobs = jobs.map(|(name, event)| (name, event, None));
    let functions = served.iter().map(|call| (call.binary, call.event(), Some(call.status))).chain(jobs);
    // The goals are the heartbeat's, whichever functions are wanted.
    let wanted = |name: &str| name == "heartbeat" || binaries.functions().iter().any(|wanted| wanted == name);
    contenders.extend(
        functions.filter(|(name, ..)| wanted(name)).map(|(name, event, status)| binary(name, event, status)),
    );
    for function in binaries.functions() {
        let is_called = contenders.iter().any(|contender| contender.name == *function);
        assert!(is_called, "benches/calls.rs has no call of {function}");
    }
    let (python, node) = (binaries.clone(), binaries.clone());
    contenders.push(Contender::new("python", move || python.python(), beat.clone(), good));
    contenders.push(Contender::new("node", move || node.node(), beat, good));
    contenders
}
