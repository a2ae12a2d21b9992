//! Reaching outside and inside: real programs on this machine, reached from a lab and reaching into one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testground_model::outcome::RunOutcome;

use crate::port::Port;
use crate::support::{PATIENCE, Session, binary, composition, signal_process, skip, until};

/// A program that ends with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program, or skips the test, and waits until it listens.
fn listening(test: &str, port: &Port, program: &str, args: &[&str]) -> Option<Program> {
    let spawned = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match spawned {
        Ok(child) => Program(child),
        Err(e) => {
            skip(test, &format!("{program}: {e}"));
            return None;
        }
    };
    until(&format!("{program} listens"), || {
        let ended = child.0.try_wait().expect("a child");
        assert!(ended.is_none(), "{program} {args:?}: {ended:?}");
        TcpStream::connect(("127.0.0.1", port.number)).ok()
    });
    Some(child)
}

fn with_hosts(hosts: &[String]) -> String {
    let list: Vec<String> = hosts.iter().map(|h| format!("{h:?}")).collect();
    format!("[global.run_config]\nadditional_hosts = [{}]\n", list.join(", "))
}

#[test]
fn instances_reach_a_redis_on_this_machine() {
    let test = "instances_reach_a_redis_on_this_machine";
    let held = Port::free();
    let port = held.number.to_string();
    let args = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let Some(_redis) = listening(test, &held, "redis-server", &args) else { return };
    let script = format!(
        "echo \"hosts $ADDITIONAL_HOSTS\"\n\
         redis-cli -h host.testground -p {port} incr visits >/dev/null || exit 1\n\
         # A larger item there and back.\n\
         head -c 3000000 /dev/zero | tr '\\0' x | redis-cli -h host.testground -p {port} -x set big$TEST_INSTANCE_INDEX\n\
         redis-cli -h host.testground -p {port} get big$TEST_INSTANCE_INDEX | wc -c"
    );
    let session = Session::with_plan(&script, &composition(5, &with_hosts(&[format!("127.0.0.1:{port}")])));
    let done = session.run(&[]);
    done.assert_success();
    let lines = done.lines();
    assert_eq!(lines.iter().filter(|l| *l == "hosts host.testground").count(), 5, "{done:?}");
    assert_eq!(lines.iter().filter(|l| *l == "3000001").count(), 5, "{done:?}");
    let visits = Command::new("redis-cli").args(["-p", &port, "get", "visits"]).output().expect("redis-cli");
    assert_eq!(String::from_utf8_lossy(&visits.stdout).trim(), "5");
}

#[test]
fn half_closes_and_ends_are_passed_on_and_only_named_ports_are_open() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    // Says back what it heard once its peer has said all, which only a half-closed connection can be told.
    let server = std::thread::spawn(move || {
        for _ in 0..20 {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).expect("all of it");
            stream.write_all(format!("heard {}", heard.len()).as_bytes()).expect("an answer");
        }
    });
    let script = format!(
        "for i in $(seq 20); do head -c 50000 /dev/zero | socat -t20 - TCP:host.testground:{port}; echo; done\n\
         socat -u TCP:host.testground:{},connect-timeout=2 - 2>&1 | grep -c refused",
        if port == 1 { 2 } else { 1 }
    );
    if Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_err() {
        return skip("half_closes_and_ends_are_passed_on_and_only_named_ports_are_open", "socat is missing");
    }
    let session = Session::with_plan(&script, &composition(1, &with_hosts(&[format!("127.0.0.1:{port}")])));
    let done = session.run(&[]);
    done.assert_success();
    assert_eq!(done.lines().iter().filter(|l| *l == "heard 50000").count(), 20, "{done:?}");
    assert_eq!(done.lines().last().map(String::as_str), Some("1"), "{done:?}");
    server.join().expect("a server");
}

#[test]
fn a_host_that_can_not_be_reached_is_named_in_the_record_and_reset_for_the_instance() {
    let held = Port::free();
    let port = held.number;
    let hosts = [format!("127.0.0.1:{port}"), "nowhere.invalid:80".to_owned()];
    let script = format!(
        "exec 2>/dev/null\n\
         for i in 1 2 3; do\n\
           exec 3<>/dev/tcp/host.testground/{port}; read -t 100 line <&3; echo \"one $?\"; done\n\
         exec 3<>/dev/tcp/nowhere.invalid/80; read -t 100 line <&3; echo \"two $?\""
    );
    let session = Session::with_plan(&script, &composition(1, &with_hosts(&hosts)));
    let done = session.run(&[]);
    done.assert_success();
    // Not the time that `read` allows (over 128), but an end.
    assert_eq!(done.lines(), ["one 1", "one 1", "one 1", "two 1"], "{done:?}");
    let warnings = done.warnings();
    let refused = format!("127.0.0.1:{port} can't be reached from outside of the lab: Connection refused");
    let told: Vec<&String> = warnings.iter().filter(|w| w.starts_with(&refused)).collect();
    assert_eq!(told.len(), 2, "{warnings:?}");
    assert!(told[0].ends_with("(asked for by g[0])"), "{told:?}");
    assert!(told[1].ends_with("; so 2 more times"), "{told:?}");
    assert!(warnings.iter().any(|w| w.starts_with("nowhere.invalid:80 can't be reached")), "{warnings:?}");
}

#[test]
fn hosts_that_make_no_sense_are_refused_before_anything_starts() {
    for (hosts, says) in [
        (vec!["127.0.0.1"], "is no host with a port"),
        (vec!["g-0:80"], "g-0 is the name of an instance"),
        (vec!["testground-redis:6379"], "is the name of a service of the lab"),
        (vec!["localhost:80", "127.0.0.1:80"], "would both be host.testground:80"),
    ] {
        let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
        let session = Session::with_plan("exit 0", &composition(1, &with_hosts(&hosts)));
        let done = session.testground(&["run", "plan"]);
        assert_eq!(done.code, Some(2), "{hosts:?}: {done:?}");
        assert!(done.stderr.contains(says), "{hosts:?}: {done:?}");
    }
}

/// A forward that goes on.
struct Forwarding {
    program: Program,
    out: BufReader<std::process::ChildStdout>,
    at: SocketAddr,
}

fn forward(session: &Session, args: &[&str]) -> Forwarding {
    let mut child = Command::new(binary())
        .arg("forward")
        .args(args)
        .env("HOME", session.path())
        .env("TESTGROUND_HOME", session.path().join("home"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut out = BufReader::new(child.stdout.take().expect("its output"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    let at = line.split(' ').nth(1).and_then(|a| a.parse().ok());
    let at = at.unwrap_or_else(|| panic!("no address in {line:?}"));
    Forwarding { program: Program(child), out, at }
}

fn get(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /hello.txt HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_port_of_an_instance_is_reached_until_the_run_is_over() {
    if Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_err() {
        return skip("a_port_of_an_instance_is_reached_until_the_run_is_over", "python3 is missing");
    }
    // The first listens on loopback only, the second on its address on the data network only.
    let script = "echo \"I am $TEST_INSTANCE_INDEX\" > hello.txt\n\
                  [ $TEST_INSTANCE_INDEX = 0 ] && at=127.0.0.1 || at=$(awk '$2 == \"g-1\" && $1 ~ /[.]/ { print $1 }' /etc/hosts)\n\
                  echo up\nexec python3 -m http.server --bind $at 8000 2>/dev/null";
    let session = Session::with_plan(script, &composition(2, ""));
    let mut going = session.start(&[]);
    going.instances_up(2);
    let id = going.run_id();
    let first = forward(&session, &[&id, "g[0]:8000", "0"]);
    let second = forward(&session, &[&id[..19], "g[1]:8000", "0"]);
    for (forwarding, says) in [(&first, "I am 0"), (&second, "I am 1")] {
        let answer = until("the server answers", || get(forwarding.at).ok().filter(|a| !a.is_empty()));
        assert!(answer.ends_with(&format!("{says}\n")), "{answer}");
    }
    // Many at once.
    let threads: Vec<_> = (0..50)
        .map(|_| {
            std::thread::spawn({
                let at = first.at;
                move || get(at)
            })
        })
        .collect();
    for thread in threads {
        assert!(thread.join().expect("a thread").expect("an answer").ends_with("I am 0\n"));
    }

    let told = |args: &[&str]| {
        let done = session.testground(&[&["forward"], args].concat());
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
        done.stderr
    };
    let taken = first.at.port().to_string();
    assert!(
        told(&[&id, "g[0]:8000", &taken])
            .contains(&format!("can't listen on 127.0.0.1:{taken}: Address already in use"))
    );
    let unknown = told(&[&id, "g[7]:8000", "0"]);
    assert!(
        unknown.contains("the run has no instance g[7]; there are g[0], g[1]; did you mean"),
        "{unknown}"
    );
    assert!(told(&["9m4e2mr0ui3e8a215n4g", "g[0]:8000"]).contains("is not running"));
    assert!(told(&[&id, "g[0]"]).contains("GROUP[INDEX]:PORT"));
    assert!(told(&[&id, "g[0]:70000"]).contains("is no port (1 to 65535)"));

    // Nobody listens: said at once, and for each connection, which is reset.
    let mut nobody = forward(&session, &[&id, "g[0]:8001", "0"]);
    let error = get(nobody.at).expect_err("nobody listens there");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    signal_process(nobody.program.0.id() as i32, rustix::process::Signal::INT);
    assert!(nobody.program.0.wait().expect("a status").success());
    let mut warnings = String::new();
    nobody.program.0.stderr.take().expect("stderr").read_to_string(&mut warnings).expect("text");
    assert!(warnings.contains("nobody listens on port 8001 of g[0]; somebody does on 8000"), "{warnings}");

    going.signal(rustix::process::Signal::INT);
    assert_eq!(going.wait().outcome(), RunOutcome::Interrupted);
    for mut forwarding in [first, second] {
        let mut last = String::new();
        forwarding.out.read_to_string(&mut last).expect("text");
        assert_eq!(last, format!("run {id} has ended\n"));
        assert!(forwarding.program.0.wait().expect("a status").success());
    }
}

/// A sync service over a Redis of its own, on a free port.
fn service(test: &str, grace: &str) -> Option<(Program, Program, Port, Port)> {
    let (redis_port, port) = (Port::free(), Port::free());
    let text = redis_port.number.to_string();
    let args = ["--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
    let redis = listening(test, &redis_port, "redis-server", &args)?;
    let (listen, store) = (format!("127.0.0.1:{}", port.number), format!("redis://127.0.0.1:{text}/0"));
    let args =
        ["sync-service", "--listen", &listen, "--store", &store, "--gc-every", "200ms", "--gc-grace", grace];
    let service = listening(test, &port, &binary().display().to_string(), &args)?;
    Some((redis, service, redis_port, port))
}

fn keys(port: &Port) -> Vec<String> {
    let out = Command::new("redis-cli").args(["-p", &port.number.to_string(), "keys", "run:*"]).output();
    let text = String::from_utf8_lossy(&out.expect("redis-cli").stdout).into_owned();
    text.lines().filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

fn with_service(port: &Port) -> String {
    format!("[global.run_config]\nsync_service = \"127.0.0.1:{}\"\nstall = \"2s\"\n", port.number)
}

#[test]
fn a_run_uses_a_service_outside_and_its_keys_go_when_it_is_over() {
    let test = "a_run_uses_a_service_outside_and_its_keys_go_when_it_is_over";
    let Some((_redis, _service, redis_port, port)) = service(test, "300ms") else { return };
    let script = "testground sync barrier network-initialized 2 --timeout 150s >/dev/null || exit 1\n\
                  testground sync signal-and-wait ready 2 >/dev/null\n\
                  testground sync network --latency 5ms >/dev/null || exit 1\n\
                  echo together\n\
                  [ -e $TEST_PLAN_DIR/go ] && exit 0\n\
                  until [ -e $TEST_PLAN_DIR/go ]; do sleep 0.05; done";
    let session = Session::with_plan(script, &composition(2, &with_service(&port)));
    let mut going = session.start(&[]);
    going.instances_up(2);
    let id = going.run_id();
    // It goes on for longer than the grace time and several sweeps, and nobody touches its keys.
    let ready = format!("run:{id}:plan:plan:case:case:states:ready#count");
    let before = keys(&redis_port);
    assert!(before.contains(&ready), "{before:?}");
    std::thread::park_timeout(Duration::from_millis(1500));
    assert!(keys(&redis_port).contains(&ready), "{:?}", keys(&redis_port));
    session.write("plan/go", "");
    let done = going.wait();
    done.assert_success();
    until("the keys are gone", || keys(&redis_port).iter().all(|k| !k.contains(&id)).then_some(()));

    // A run that is interrupted is over too; one whose instances fail as well.
    std::fs::remove_file(session.path().join("plan/go")).expect("the file");
    let mut going = session.start(&[]);
    going.instances_up(2);
    let id = going.run_id();
    going.signal(rustix::process::Signal::INT);
    assert_eq!(going.wait().outcome(), RunOutcome::Interrupted);
    until("the keys are gone", || keys(&redis_port).iter().all(|k| !k.contains(&id)).then_some(()));
}

#[test]
fn who_is_missing_at_a_barrier_is_known_with_a_service_outside_too() {
    let test = "who_is_missing_at_a_barrier_is_known_with_a_service_outside_too";
    let Some((_redis, _service, _, port)) = service(test, "300ms") else { return };
    let script = "[ $TEST_INSTANCE_INDEX = 0 ] && testground sync signal ready >/dev/null\n\
                  testground sync barrier ready 3";
    let session = Session::with_plan(script, &composition(2, &with_service(&port)));
    let done = session.run(&[]);
    let RunOutcome::Failure { cause } = done.outcome() else { panic!("{done:?}") };
    assert!(cause.contains("ready") && cause.contains("1 of 3"), "{cause}: {done:?}");
    let told = done.events.iter().find_map(|e| match &e.kind {
        testground_model::event::EventKind::Stalled { barriers, .. } => Some(barriers.clone()),
        _ => None,
    });
    let told = told.expect("the standstill is told");
    assert_eq!(told[0].waiting, ["g[0]", "g[1]"], "{told:?}");
    assert_eq!(told[0].missing, ["g[1]"], "{told:?}");
}

#[test]
fn a_service_that_is_not_there_is_refused_by_name() {
    let port = Port::free();
    let session = Session::with_plan("exit 0", &composition(1, &with_service(&port)));
    let done = session.run(&[]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let says = format!("the sync service 127.0.0.1:{} can't be used", port.number);
    assert!(done.cause().contains(&says) && done.cause().contains("refused"), "{done:?}");
    // Something else listens there.
    let listener = TcpListener::bind(("127.0.0.1", port.number)).expect("a listener");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut heard = [0; 256];
        let _ = stream.read(&mut heard);
        let _ = stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n");
    });
    let session = Session::with_plan("exit 0", &composition(1, &with_service(&port)));
    let done = session.run(&[]);
    assert!(done.cause().contains("does not know /v1/runs/"), "{done:?}");
    other.join().expect("a server");
}
