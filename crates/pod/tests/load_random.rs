//! Manifests with random damage, and any bytes at all, through the loader. The same seed makes the same damage.

mod random;

use std::{fs, path::Path};

use proptest::prelude::*;

use random::loader::{bytes, check};

/// Words that YAML, quantities and the API give a meaning.
const WORDS: [&str; 40] = [
    "&a ",
    "*a",
    "<<: *a",
    "- ",
    "? ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "---\n",
    "...\n",
    "\t",
    "\u{0}",
    "\u{feff}",
    "é",
    "~",
    "null",
    "yes",
    "0644",
    "1e400",
    "-0",
    "9223372036854775808",
    "1e99999999999",
    ".inf",
    "!!str ",
    "!!binary ",
    "%YAML 1.1\n",
    "restartPolicy: Always",
    "containers:",
    "initContainers:",
    "spec:",
    "kind: Job",
    "\r\n",
    "  ",
];

fn seeds() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folders = [root.join("manifests"), root.join("conformance/kubelet-1.34/manifests")];
    let mut files: Vec<_> =
        folders.iter().flat_map(|f| fs::read_dir(f).unwrap()).map(|f| f.unwrap().path()).collect();
    files.sort();
    files.iter().map(|f| fs::read_to_string(f).unwrap()).collect()
}

/// One act of damage: what, where, how much.
type Damage = (u8, u32, u8);

fn damage(text: &str, acts: &[Damage], others: &[String]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (act, place, amount) in acts {
        let at = *place as usize % (chars.len() + 1);
        let many = usize::from(*amount) % 40;
        let end = (at + many).min(chars.len());
        match act % 6 {
            0 => drop(chars.drain(at..end)),
            1 => drop(chars.splice(at..at, WORDS[usize::from(*amount) % WORDS.len()].chars())),
            2 => drop(chars.splice(at..end, WORDS[usize::from(*amount) % WORDS.len()].chars())),
            3 => {
                let copy: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, copy);
            }
            4 => {
                let other: Vec<char> = others[*place as usize % others.len()].chars().collect();
                let from = *place as usize % other.len();
                chars.splice(at..end, other[from..(from + many * 4).min(other.len())].iter().copied());
            }
            _ => drop(chars.splice(at..at, "\n".chars().chain(std::iter::repeat_n(' ', many % 12)))),
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_manifests_are_read_or_refused(
        which in any::<proptest::sample::Index>(),
        acts in proptest::collection::vec(any::<Damage>(), 1..8),
        minor in 29_u8..=37,
    ) {
        thread_local!(static SEEDS: Vec<String> = seeds());
        SEEDS.with(|seeds| check(&damage(&seeds[which.index(seeds.len())], &acts, seeds), minor));
    }

    #[test]
    fn any_text_is_read_or_refused(words in proptest::collection::vec(0..WORDS.len(), 0..60), minor in 29_u8..=37) {
        let text: String = words.into_iter().map(|w| WORDS[w]).collect();
        check(&text, minor);
    }

    /// The fuzz target `load`, over any bytes.
    #[test]
    fn any_bytes_are_read_or_refused(data in proptest::collection::vec(any::<u8>(), 0..400)) {
        bytes(&data);
    }
}
