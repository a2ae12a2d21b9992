//! `testground pod`: what a pod is, and how it would live, without running it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use testground_model::outcome::ExitCode;
use testground_pod::{
    explain::{self, NODE_MEMORY, Options, Report, Times, sarif},
    load::{self, MAX_BYTES, Manifest, Workload},
    machine::{Settings, Timing},
    render,
    resources::Quantity,
    simulate::{
        self,
        script::{Script, Span},
        timeline::Timeline,
    },
    version::{Features, KubernetesVersion},
};

/// Explain or simulate a Kubernetes pod, its sidecars included, from its manifest.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Explain(Explain),
    Simulate(Simulate),
}

/// Show a pod's effective resources, how it starts and stops, and what is likely to go wrong.
///
/// Takes Pod, Job, CronJob, Deployment, ReplicaSet, DaemonSet and StatefulSet, and files of several documents. Ends
/// with 2 when the API server would refuse a manifest, and with 1 when `--deny` finds something.
#[derive(Debug, clap::Args)]
struct Explain {
    /// Manifests; `-` is the standard input.
    #[arg(required_unless_present = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The same, as `kubectl` has it.
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    version: Version,
    /// How long a container takes to exit after its stop signal, such as `app=25s`.
    #[arg(long = "stop", value_name = "NAME=TIME", value_parser = named_time)]
    stop: Vec<(String, f64)>,
    /// How long a container's preStop hook takes, such as `proxy=5s`.
    #[arg(long = "pre-stop", value_name = "NAME=TIME", value_parser = named_time)]
    pre_stop: Vec<(String, f64)>,
    /// The memory of the node, for oom_score_adj and volumes in memory.
    #[arg(long, value_name = "QUANTITY", default_value = "16Gi", value_parser = memory)]
    node_memory: i64,
    /// What ends with exit code 1.
    #[arg(long, value_name = "WHAT")]
    deny: Option<Deny>,
    /// The form of the output.
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    output: Form,
}

/// Let a pod live in virtual time: the containers behave as a script says, the rest is what Kubernetes does.
#[derive(Debug, clap::Args)]
struct Simulate {
    /// The manifest; `-` is the standard input.
    #[arg(required_unless_present = "filename", conflicts_with = "filename", value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as `kubectl` has it.
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// How the containers behave and what befalls the pod; see docs/pods.md. Without it every container runs for ever.
    #[arg(long, value_name = "EVENTS.yaml")]
    script: Option<PathBuf>,
    /// Which object of the file, such as `job/report`, when it holds several.
    #[arg(long, value_name = "KIND/NAME")]
    object: Option<String>,
    #[command(flatten)]
    version: Version,
    /// `ideal`: each step as soon as its cause is there. `kubelet`: with a kubelet's polls and pauses.
    #[arg(long, default_value = "ideal")]
    timing: TimingName,
    /// Decides about what is chance in `kubelet` timing.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The form of the output.
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    output: Picture,
}

#[derive(Debug, clap::Args)]
struct Version {
    /// Whose behaviour: 1.29 to 1.37.
    #[arg(long, value_name = "1.N", default_value_t = KubernetesVersion::NEWEST)]
    kubernetes_version: KubernetesVersion,
    /// Feature gates that are switched by hand, such as `ContainerRestartRules=true`.
    #[arg(long, value_name = "GATE=BOOL,...", default_value = "", hide_default_value = true)]
    feature_gates: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Deny {
    /// Warnings (notes are always fine).
    Warnings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    Text,
    Json,
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Picture {
    Text,
    Json,
    Svg,
    Html,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TimingName {
    Ideal,
    Kubelet,
}

/// Runs one of the commands; the number is the exit code.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    match args.command {
        Command::Explain(args) => explain(&args),
        Command::Simulate(args) => simulate(&args),
    }
}

fn explain(args: &Explain) -> anyhow::Result<u8> {
    let mut times: BTreeMap<String, Times> = BTreeMap::new();
    for (name, seconds) in &args.stop {
        times.entry(name.clone()).or_default().exit = Some(*seconds);
    }
    for (name, seconds) in &args.pre_stop {
        times.entry(name.clone()).or_default().pre_stop = Some(*seconds);
    }
    let options = Options { features: args.version.features()?, node_memory: args.node_memory, times };
    let mut reports = Vec::new();
    for file in args.files.iter().chain(&args.filename) {
        let manifest = read(file, &options.features)?;
        let report = explain::report(&shown(file), &manifest, &options)?;
        reports.push(report);
    }
    if reports.iter().all(|r| r.objects.is_empty() && r.mistakes.is_empty()) {
        let files: Vec<_> = reports.iter().map(|r| r.file.as_str()).collect();
        let found =
            reports.iter().flat_map(|r| &r.skipped).map(String::as_str).collect::<Vec<_>>().join(", ");
        let found = if found.is_empty() { "it is empty".to_owned() } else { format!("only {found}") };
        bail!(
            "{}: there is no Pod, Job, Deployment or any other object with a pod here: {found}",
            files.join(", ")
        );
    }
    print_reports(&reports, args.output)?;
    let (mistakes, warnings) = reports.iter().map(Report::counts).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    if mistakes > 0 {
        return Ok(ExitCode::Configuration as u8);
    }
    if args.deny.is_some() && warnings > 0 {
        complain(&format!(
            "error: {warnings} warning{} (--deny warnings)\n",
            if warnings == 1 { "" } else { "s" }
        ));
        return Ok(ExitCode::Failed as u8);
    }
    Ok(ExitCode::Success as u8)
}

fn print_reports(reports: &[Report], form: Form) -> anyhow::Result<()> {
    match form {
        Form::Json => print(&(serde_json::to_string_pretty(reports)? + "\n")),
        Form::Sarif => print(&(serde_json::to_string_pretty(&sarif::log(reports))? + "\n")),
        Form::Text => {
            for (i, report) in reports.iter().enumerate() {
                complain(&explain::text::mistakes(&report.file, &report.mistakes));
                let gap = if i > 0 { "\n" } else { "" };
                print(&format!("{gap}{}", explain::text::report(report)))?;
            }
            Ok(())
        }
    }
}

fn simulate(args: &Simulate) -> anyhow::Result<u8> {
    let features = args.version.features()?;
    let manifest = read(args.path(), &features)?;
    let mistakes = manifest.all_mistakes();
    if !mistakes.is_empty() {
        let mistakes: Vec<_> = mistakes.into_iter().cloned().collect();
        complain(&explain::text::mistakes(&shown(args.path()), &mistakes));
        return Ok(ExitCode::Configuration as u8);
    }
    let workload = choose(&manifest, args)?;
    let script = match &args.script {
        None => Script::default(),
        Some(file) => match load::value(&text(file)?) {
            Ok(script) => script,
            Err(mistakes) => {
                complain(&explain::text::mistakes(&shown(file), &mistakes));
                return Ok(ExitCode::Configuration as u8);
            }
        },
    };
    let timing = match args.timing {
        TimingName::Ideal => Timing::Ideal,
        TimingName::Kubelet => Timing::Kubelet { seed: args.seed },
    };
    let settings = Settings { features, timing, ..Settings::default() };
    let pod = workload.pod();
    let timeline = match workload.job() {
        Some(job) => simulate::simulate_job(&pod, job, &script, &settings),
        None => simulate::simulate(&pod, &script, &settings),
    }?;
    print(&picture(&timeline, args.output)?)?;
    Ok(ExitCode::Success as u8)
}

fn picture(timeline: &Timeline, form: Picture) -> anyhow::Result<String> {
    Ok(match form {
        Picture::Text => render::text::page(timeline),
        Picture::Json => serde_json::to_string_pretty(timeline)? + "\n",
        Picture::Svg => render::svg::picture(timeline),
        Picture::Html => render::html::page(timeline),
    })
}

fn choose<'m>(manifest: &'m Manifest, args: &Simulate) -> anyhow::Result<&'m Workload> {
    let all: Vec<_> = manifest.workloads().collect();
    let titles = || all.iter().map(|w| w.title()).collect::<Vec<_>>().join(", ");
    match (&args.object, all.as_slice()) {
        (_, []) => bail!("{}: there is no object with a pod here", shown(args.path())),
        (None, [one]) => Ok(one),
        (None, _) => bail!("{} holds {}: choose one with --object", shown(args.path()), titles()),
        (Some(wanted), _) => {
            let found = all.iter().find(|w| w.title().eq_ignore_ascii_case(wanted) || w.name() == *wanted);
            let missing = || format!("{} holds no `{wanted}`, but {}", shown(args.path()), titles());
            found.copied().with_context(missing)
        }
    }
}

impl Simulate {
    /// The manifest, whichever way it was named.
    fn path(&self) -> &Path {
        self.file.as_deref().or(self.filename.as_deref()).unwrap_or(Path::new("-"))
    }
}

fn read(file: &Path, features: &Features) -> anyhow::Result<Manifest> {
    Ok(load::read(&text(file)?, features))
}

/// The text of a file, no more of it than can be judged too large.
fn text(file: &Path) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let most = MAX_BYTES as u64 + 1;
    let result = if file == Path::new("-") {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        fs::File::open(file).and_then(|f| f.take(most).read_to_end(&mut bytes))
    };
    result.with_context(|| format!("failed to read {}", shown(file)))?;
    if bytes.len() > MAX_BYTES {
        bail!("{} is larger than {MAX_BYTES} bytes, which is all that is read", shown(file));
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", shown(file)))
}

fn shown(file: &Path) -> String {
    if file == Path::new("-") { "<stdin>".to_owned() } else { file.display().to_string() }
}

/// A reader that has seen enough (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("failed to write the output"),
    }
}

/// Nobody left to hear a complaint is no error either.
fn complain(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

fn named_time(text: &str) -> Result<(String, f64), String> {
    let (name, time) = text.split_once('=').ok_or("write it as NAME=TIME, such as app=25s")?;
    let seconds =
        Span::parse(time).ok_or_else(|| format!("`{time}` is no time: write it as 25s"))?.0.as_secs_f64();
    if name.is_empty() || seconds > load::MAX_SECONDS as f64 {
        return Err(format!("`{text}` is out of range: NAME=TIME, with at most {} s", load::MAX_SECONDS));
    }
    Ok((name.to_owned(), seconds))
}

fn memory(text: &str) -> Result<i64, String> {
    let quantity: Quantity = text.parse().map_err(|e| format!("{e}"))?;
    if quantity <= Quantity::ZERO {
        return Err(format!(
            "a node has more memory than {text}: write it as {}",
            Quantity::from_bytes(NODE_MEMORY)
        ));
    }
    Ok(quantity.units())
}

impl Version {
    fn features(&self) -> anyhow::Result<Features> {
        Ok(Features::of(self.kubernetes_version).set_all(&self.feature_gates)?)
    }
}
