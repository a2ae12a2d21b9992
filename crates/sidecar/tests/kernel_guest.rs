//! The kernel's plane in a guest whose kernel has netem: User Mode Linux, a whole kernel as a program (`crates/linux/tests/uml`).
//! What runs in it are the other tests of this crate, so that both planes are held to the same.

use lab_support::{INSIDE, PLANE, skip};

mod lab_support;

/// The same, and the tests of the lab, on the kernel's plane in a guest.
#[test]
fn the_same_on_the_kernel_plane_in_a_guest() {
    let name = "the_same_on_the_kernel_plane_in_a_guest";
    let found =
        std::process::Command::new("sh").args(["-c", "command -v linux.uml && command -v modprobe"]).output();
    if !found.is_ok_and(|found| found.status.success()) {
        return skip(name, "no User Mode Linux (packages user-mode-linux kmod busybox-static)");
    }
    let here = std::env::current_exe().unwrap();
    let beside = |stem: &str| beside(&here, stem);
    let Some(others) = ["planes", "lab_kernel", "lab_serve", "kernel_interface", "kernel_arrivals"]
        .map(beside)
        .into_iter()
        .collect::<Option<Vec<_>>>()
    else {
        return skip(name, "the other tests of this crate are not built");
    };
    // HTB's own rates, and what this machine's kernel lacks, are asked outside.
    let mut script = String::from(
        "for m in sch_netem sch_htb sch_tbf cls_bpf ifb veth bridge tun ipv6 sch_ingress cls_u32 cls_flower cls_matchall act_mirred; do modprobe -q $m; done\n",
    );
    for exe in &others {
        script +=
            &format!("{} --test-threads=1 --skip without_netem_hold --nocapture || exit 1\n", exe.display());
    }
    let work = tempfile::tempdir().unwrap();
    let runner = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../linux/tests/uml/run");
    let output = std::process::Command::new(runner)
        .args([
            "-m",
            "768M",
            "-t",
            "900",
            "--",
            "env",
            &format!("{INSIDE}=tap"),
            &format!("{PLANE}=kernel"),
            "sh",
            "-c",
            &script,
        ])
        .env("UML_WORK", work.path())
        .output()
        .unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{errors}", output.status);
    assert_eq!(said.matches("test result: ok").count(), 5, "{said}\n{errors}");
}

/// The newest test binary of another name beside this one.
fn beside(here: &std::path::Path, stem: &str) -> Option<std::path::PathBuf> {
    let files = std::fs::read_dir(here.parent()?).ok()?.filter_map(Result::ok);
    let fits =
        |name: &str| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('-') && !rest.contains('.'));
    let found = files.filter(|file| file.file_name().to_str().is_some_and(fits));
    found.max_by_key(|file| file.metadata().and_then(|m| m.modified()).ok()).map(|file| file.path())
}
