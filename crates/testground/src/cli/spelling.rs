//! Flags as the original took them: `-test-param` is `--test-param`, and `-tp` is one too.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use clap::Command;

/// Puts a second dash before every known long flag that was typed with one. Nothing behind `--` is touched.
pub(super) fn long_flags(command: &Command, typed: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut known = HashSet::new();
    collect(command, &mut known);
    let mut over = false;
    let mend = |arg: OsString| {
        over |= arg == "--";
        let flag = arg.to_str().filter(|_| !over).and_then(|a| a.strip_prefix('-'));
        let is_long = flag.is_some_and(|f| {
            let name = f.split('=').next().unwrap_or_default();
            name.len() > 1 && known.contains(name)
        });
        if !is_long {
            return arg;
        }
        let mut mended = OsString::from("-");
        mended.push(arg);
        mended
    };
    typed.map(mend).collect()
}

/// Says how a path is run whose name was taken for a kind of run: `testground run s` is `run single`.
pub(super) fn shadowed_path(typed: &[OsString]) -> Option<String> {
    let run = typed.iter().position(|arg| arg == "run")?;
    let word = typed.get(run + 1)?.to_str()?;
    let kind = match word {
        "s" | "single" => "single",
        "c" | "composition" => "composition",
        _ => return None,
    };
    Path::new(word).exists().then(|| {
        format!(
            "note: `{word}` is read as the command `run {kind}`; what lies here under that name is run by \
             `testground run ./{word}`"
        )
    })
}

fn collect(command: &Command, known: &mut HashSet<String>) {
    for arg in command.get_arguments() {
        known.extend(arg.get_long_and_visible_aliases().unwrap_or_default().iter().map(|s| (*s).to_owned()));
    }
    for sub in command.get_subcommands() {
        collect(sub, known);
    }
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn one_dash_is_enough_for_what_is_known() {
        let sub = Command::new("single")
            .arg(Arg::new("t").long("test-param").visible_alias("tp"))
            .arg(Arg::new("i").short('i').long("instances"));
        let command = Command::new("t").subcommand(sub);
        let typed = ["t", "single", "-tp", "a=b", "-test-param=c=d", "-i", "3", "-ix", "--", "-tp"];
        let mended = long_flags(&command, typed.iter().map(OsString::from));
        assert_eq!(
            mended,
            ["t", "single", "--tp", "a=b", "--test-param=c=d", "-i", "3", "-ix", "--", "-tp"]
                .map(OsString::from)
        );
    }
}
