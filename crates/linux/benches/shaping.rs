//! What shapes cost over netlink: a first shape with many rules, a changed one on many interfaces, and reading what is in force.
//! One JSON line a figure. Run as `cargo bench -p testground-linux --bench shaping`. Rules are classes of HTB with u32 filters
//! in a table, which every kernel with HTB has; netem below them is measured where the kernel has it.

use std::time::Instant;

use testground_linux::mount;
use testground_linux::process::{IdMap, Namespaces, SpawnExec, spawn_exec};
use testground_linux::route::{Change, RouteSocket, VethEnd};
use testground_linux::tc::{
    Action, Filter, Handle, Htb, HtbClass, Netem, Protocol, Qdisc, Target, TcChange, TcSocket, U32Bucket,
    U32Key, U32Target,
};

const STAGE: &str = "TESTGROUND_LINUX_BENCH";
const TREE: Handle = Handle::new(1, 0);

fn main() {
    if std::env::var_os(STAGE).is_none() {
        let mut spawn = SpawnExec::new("/proc/self/exe");
        spawn.env = std::env::vars_os().chain([(STAGE.into(), "1".into())]).collect();
        spawn.id_map = Some(IdMap::choose().map);
        let status = spawn_exec(Namespaces::LAB, spawn).expect("a lab").wait().expect("its end");
        std::process::exit(status.shell_code());
    }
    mount::make_private("/".as_ref()).expect("private mounts");
    mount::proc("/proc".as_ref()).expect("a /proc");
    let mut route = RouteSocket::open().expect("a socket");
    let mut tc = TcSocket::open().expect("a socket");
    let netem = has_netem(&mut route, &mut tc);
    for rules in [100, 1000, 4096] {
        first_shape(&mut route, &mut tc, rules, netem);
    }
    changed_shapes(&mut route, &mut tc, 200, netem);
}

fn report(bench: &str, milliseconds: f64, peer: &str) {
    println!("{{\"bench\":\"{bench}\",\"value\":{milliseconds:.3},\"unit\":\"ms\",\"peer\":\"{peer}\"}}");
}

fn interface(route: &mut RouteSocket, name: &str) -> u32 {
    let peer = format!("{name}p");
    route
        .apply(&[Change::CreateVeth { one: VethEnd::new(name), other: VethEnd::new(&peer) }])
        .expect("a veth pair");
    route.link(name).expect("an answer").expect("an interface").index
}

fn has_netem(route: &mut RouteSocket, tc: &mut TcSocket) -> bool {
    let index = interface(route, "try");
    let qdisc = Qdisc::Netem(Netem::default());
    let action = Action::AddQdisc { parent: Handle::ROOT, handle: Handle::new(1, 0), qdisc };
    tc.apply(&[TcChange { index, action }]).is_ok()
}

fn leaf(index: u32, minor: u16, netem: bool, delay: u64) -> Option<TcChange> {
    let (parent, handle) = (Handle::new(1, minor), Handle::new(0x1000 + minor, 0));
    let qdisc = Qdisc::Netem(Netem { delay, ..Netem::default() });
    netem.then_some(TcChange { index, action: Action::ReplaceQdisc { parent, handle, qdisc } })
}

/// A class a rule, and its destination in a table of 256 buckets.
fn shape(index: u32, rules: u16, netem: bool) -> Vec<TcChange> {
    let filter = |filter| Action::AddFilter { parent: TREE, priority: 1, protocol: Protocol::Ipv4, filter };
    let mut actions = vec![
        Action::AddQdisc { parent: Handle::ROOT, handle: TREE, qdisc: Qdisc::Htb(Htb::default()) },
        filter(Filter::U32Table { table: 1, buckets: 256 }),
        filter(Filter::U32 {
            keys: U32Key::destination("10.0.0.0/8".parse().expect("a network")),
            target: U32Target::Table { table: 1, offset: 16, mask: 0xff },
            bucket: None,
        }),
    ];
    let mut changes: Vec<TcChange> = Vec::new();
    for rule in 1..=rules {
        let class = Handle::new(1, rule);
        actions.push(Action::AddClass { parent: TREE, handle: class, class: HtbClass::of_rate(1_250_000) });
        let [high, low] = rule.to_be_bytes();
        let host = format!("10.0.{high}.{low}/32").parse().expect("an address");
        actions.push(filter(Filter::U32 {
            keys: U32Key::destination(host),
            target: U32Target::Is(Target::Class(class)),
            bucket: Some(U32Bucket { table: 1, bucket: low, place: 0 }),
        }));
        changes.extend(leaf(index, rule, netem, 10_000_000));
    }
    actions.into_iter().map(|action| TcChange { index, action }).chain(changes).collect()
}

fn peer(netem: bool) -> &'static str {
    if netem { "HTB, u32, netem" } else { "HTB, u32" }
}

fn first_shape(route: &mut RouteSocket, tc: &mut TcSocket, rules: u16, netem: bool) {
    let index = interface(route, &format!("first{rules}"));
    let start = Instant::now();
    tc.apply(&shape(index, rules, netem)).expect("the shape");
    report(&format!("first_shape_{rules}_rules"), start.elapsed().as_secs_f64() * 1e3, peer(netem));
    let start = Instant::now();
    let classes = tc.classes(index).expect("a list").len();
    let filters = tc.filters(index, TREE).expect("a list").len();
    assert!(classes == usize::from(rules) && filters > usize::from(rules));
    report(&format!("read_{rules}_rules"), start.elapsed().as_secs_f64() * 1e3, peer(netem));
    let start = Instant::now();
    let action = Action::DeleteQdisc { parent: Handle::ROOT, handle: Handle::NONE };
    tc.apply(&[TcChange { index, action }]).expect("removed");
    report(&format!("remove_{rules}_rules"), start.elapsed().as_secs_f64() * 1e3, peer(netem));
}

fn changed_shapes(route: &mut RouteSocket, tc: &mut TcSocket, instances: u32, netem: bool) {
    let indexes: Vec<u32> = (0..instances).map(|number| interface(route, &format!("i{number}"))).collect();
    for index in &indexes {
        tc.apply(&shape(*index, 1, netem)).expect("the shape");
    }
    let class = HtbClass::of_rate(2_500_000);
    let mut changes: Vec<TcChange> = Vec::new();
    for index in &indexes {
        let action = Action::ChangeClass { parent: TREE, handle: Handle::new(1, 1), class };
        changes.push(TcChange { index: *index, action });
        changes.extend(leaf(*index, 1, netem, 20_000_000));
    }
    let start = Instant::now();
    tc.apply(&changes).expect("the change");
    report(&format!("change_shape_{instances}_instances"), start.elapsed().as_secs_f64() * 1e3, peer(netem));
}
