//! `testground plan`: the plans in the home.

use anyhow::{Context, anyhow};
use clap::{Subcommand, ValueEnum};
use testground_engine::home::{Home, MANIFEST_FILE};
use testground_engine::plans::{self, Source, Target};
use testground_engine::text::read_text;
use testground_model::manifest::Manifest;
use testground_model::outcome::ExitCode;

use super::{dynamic, runs};

/// Make, import, list and remove plans in $TESTGROUND_HOME/plans.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a new plan, which runs at once.
    Create {
        #[command(flatten)]
        plan: Named,
        /// The language it is written in.
        #[arg(short, long, visible_alias = "language", default_value = "go")]
        target: Language,
        /// The path of a Go plan's module.
        #[arg(long, default_value = "github.com/your/module/name")]
        module: String,
        /// Make it a git repository with this remote, `origin`.
        #[arg(long, value_name = "URL")]
        remote: Option<String>,
    },
    /// Take in plans: a directory is linked to, a git repository is cloned.
    Import {
        /// The directory, or the repository's address.
        #[arg(long, value_name = "DIR|GIT")]
        from: String,
        /// It is a git repository, whatever it looks like.
        #[arg(long)]
        git: bool,
        /// The name in the home; the last part of where it comes from without it.
        #[arg(long)]
        name: Option<String>,
    },
    /// The plans that can be run by name.
    #[command(visible_alias = "ls")]
    List {
        /// A line for each test case.
        #[arg(long)]
        testcases: bool,
    },
    /// Remove a plan; of an imported directory only the link.
    Rm {
        #[command(flatten)]
        plan: Named,
        /// Don't ask.
        #[arg(short, long)]
        yes: bool,
    },
}

/// A plan's name, with or without the flag of the original.
#[derive(Debug, clap::Args)]
struct Named {
    /// The plan's name, such as ping or network/ping.
    #[arg(value_name = "NAME", required_unless_present = "plan", conflicts_with = "plan", add = dynamic::plans())]
    name: Option<String>,
    /// The same with a flag.
    #[arg(short, long, value_name = "NAME", add = dynamic::plans())]
    plan: Option<String>,
}

/// The languages there are templates for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    /// Go, with the SDK for Go.
    Go,
    /// JavaScript for Node, with the SDK for JavaScript.
    #[value(alias = "javascript", alias = "node")]
    Js,
    /// Rust, with the SDK for Rust.
    Rust,
    /// A bash script, without any SDK.
    #[value(alias = "bash", alias = "sh")]
    Shell,
}

/// Does what was asked.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let home = Home::open(|name| std::env::var_os(name))?;
    match args.what {
        What::Create { plan, target, module, remote } => {
            create(&home, &plan.name()?, target, &module, remote.as_deref())
        }
        What::Import { from, git, name } => import(&home, &from, git, name.as_deref()),
        What::List { testcases } => list(&home, testcases),
        What::Rm { plan, yes } => remove(&home, &plan.name()?, yes),
    }
}

// === impl Named ===

impl Named {
    fn name(&self) -> anyhow::Result<String> {
        self.plan.clone().or_else(|| self.name.clone()).context("no plan is named")
    }
}

fn create(
    home: &Home,
    name: &str,
    language: Language,
    module: &str,
    remote: Option<&str>,
) -> anyhow::Result<ExitCode> {
    let target = match language {
        Language::Go => Target::Go,
        Language::Js => Target::Js,
        Language::Rust => Target::Rust,
        Language::Shell => Target::Shell,
    };
    let dir = plans::create(&home.plans(), name, target, module)?;
    println!("created plan {name} in {}", dir.display());
    if let Some(remote) = remote {
        for args in [&["init", "--quiet"][..], &["remote", "add", "--", "origin", remote]] {
            let done = std::process::Command::new("git").arg("-C").arg(&dir).args(args).status();
            let done = done.context("the plan is there, but git can't be started")?;
            if !done.success() {
                return Err(anyhow!("the plan is there, but `git {}` failed", args.join(" ")));
            }
        }
    }
    println!("run it with: testground run {name}");
    Ok(ExitCode::Success)
}

fn import(home: &Home, from: &str, git: bool, name: Option<&str>) -> anyhow::Result<ExitCode> {
    let imported = plans::import(&home.plans(), &Source::of(from, git), name)?;
    if imported.already {
        println!("{} is imported already", imported.name);
    } else {
        println!("imported {}", imported.plans.join(", "));
    }
    Ok(ExitCode::Success)
}

fn list(home: &Home, testcases: bool) -> anyhow::Result<ExitCode> {
    let known = plans::list(&home.plans());
    if known.is_empty() {
        eprintln!("there are no plans in {}; `testground plan create` makes one", home.plans().display());
    }
    let mut out = String::new();
    for name in known {
        if !testcases {
            out.push_str(&format!("{name}\n"));
            continue;
        }
        let path = home.plans().join(&name).join(MANIFEST_FILE);
        let text = read_text(&path);
        let manifest = text
            .map_err(|e| e.to_string())
            .and_then(|text| Manifest::parse(&path.display().to_string(), &text).map_err(|e| e.to_string()));
        match manifest {
            Ok(manifest) => {
                for case in &manifest.testcases {
                    out.push_str(&format!("{name} {}\n", case.name.value));
                }
            }
            Err(e) => eprintln!("warning: {} can't be read: {e}", path.display()),
        }
    }
    use std::io::Write as _;
    // Whoever reads may have gone.
    let _ = std::io::stdout().lock().write_all(out.as_bytes());
    Ok(ExitCode::Success)
}

fn remove(home: &Home, name: &str, yes: bool) -> anyhow::Result<ExitCode> {
    let path = plans::find(&home.plans(), name)?;
    let what = match std::fs::read_link(&path) {
        Ok(target) => format!("the link {name} to {}", target.display()),
        Err(_) => format!("{} with everything in it", path.display()),
    };
    if !yes && !runs::agreed(&format!("remove {what}?"))? {
        eprintln!("nothing was removed");
        return Ok(ExitCode::Failed);
    }
    plans::remove(&home.plans(), name)?;
    println!("removed {what}");
    Ok(ExitCode::Success)
}
