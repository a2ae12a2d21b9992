//! Whatever a composition holds: it is read and resolved, or refused with places, without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use testground_model::artifacts::write_artifacts;
use testground_model::composition::{Composition, Files};
use testground_model::manifest::Manifest;
use testground_model::resolve::{Overrides, resolve};

const MANIFEST: &str = "name = \"p\"\n[builders.\"exec:generic\"]\nprogram = \"x\"\n[runners.\"local:exec\"]\n[[testcases]]\nname = \"c\"\n";

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = write_artifacts(text, &[("a", "artifact")]);
    if let Ok(manifest) = Manifest::parse("manifest.toml", text) {
        let _ = manifest.check();
    }
    let Ok(composition) = Composition::parse_expanded("c.toml", text) else { return };
    let Ok(manifest) = Manifest::parse("manifest.toml", MANIFEST) else { return };
    let named = composition.needed_files().into_iter();
    let files: Files = named.map(|file| (file.path.value, Ok(text.to_owned()))).collect();
    match resolve(&manifest, &composition, &files, &Overrides::default()) {
        Ok(checked) => {
            for run in checked.value {
                assert!(run.groups.iter().all(|group| group.instances > 0));
                let _ = run.to_string();
            }
        }
        Err(found) => assert!(found.has_errors() && !found.render().is_empty()),
    }
});
