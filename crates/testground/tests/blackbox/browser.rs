//! A headless Chromium, driven through pipes with its DevTools protocol: no port, no network.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};

use serde_json::{Value, json};

use super::support::{PATIENCE, until};

/// A page that is open.
pub(crate) struct Page {
    browser: Child,
    to: File,
    from: Receiver<Value>,
    session: String,
    next: u64,
    /// What the page said and asked for by itself: its console, its errors, its requests.
    pub(crate) heard: Vec<Value>,
}

/// The browser of this machine.
pub(crate) fn installed() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    })
}

impl Page {
    /// Opens a file in a browser of its own, whose profile lies in `dir`.
    pub(crate) fn open(browser: &str, file: &Path, dir: &Path) -> Page {
        let (into, out) = (dir.join("devtools.in"), dir.join("devtools.out"));
        for fifo in [&into, &out] {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(rustix::fs::CWD, fifo, mode).expect("a pipe");
        }
        // Descriptors 3 and 4 are where it listens and answers.
        let script = format!(
            "exec {browser} --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking \
             --disable-component-update --disable-sync --no-first-run --hide-scrollbars --window-size=1280,1600 \
             --user-data-dir={}/profile --remote-debugging-pipe about:blank 3<{} 4>{} 2>{}/browser.log",
            dir.display(),
            into.display(),
            out.display(),
            dir.display()
        );
        let child = Command::new("bash")
            .args(["-c", &script])
            .env("HOME", dir)
            .env("XDG_CONFIG_HOME", dir)
            .env("XDG_CACHE_HOME", dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("bash starts");
        let to = File::options().write(true).open(&into).expect("its ear");
        let from = BufReader::new(File::open(&out).expect("its mouth"));
        let (told, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for message in from.split(0).map_while(Result::ok) {
                if told.send(serde_json::from_slice(&message).expect("JSON")).is_err() {
                    return;
                }
            }
        });
        let mut page =
            Page { browser: child, to, from: heard, session: String::new(), next: 0, heard: Vec::new() };
        let target = page.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attached =
            page.call("Target.attachToTarget", &json!({ "targetId": target["targetId"], "flatten": true }));
        page.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), &json!({}));
        }
        page.call("Page.navigate", &json!({ "url": format!("file://{}", file.display()) }));
        page.until("document.documentElement?.dataset.ready === 'true'");
        page
    }

    /// What an expression of JavaScript is.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let answer =
            self.call("Runtime.evaluate", &json!({ "expression": expression, "returnByValue": true }));
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// The text that a reader sees of the elements that fit.
    pub(crate) fn texts(&mut self, selector: &str) -> Vec<String> {
        let seen = self.value(&format!(
            "[...document.querySelectorAll({selector:?})].filter(e => e.offsetParent !== null).map(e => e.innerText)"
        ));
        seen.as_array().expect("a list").iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Types into the search.
    pub(crate) fn search(&mut self, text: &str) {
        self.value("document.getElementById('search').value = ''; document.getElementById('search').focus()");
        if text.is_empty() {
            self.value("document.getElementById('search').dispatchEvent(new Event('input'))");
        } else {
            self.call("Input.insertText", &json!({ "text": text }));
        }
    }

    /// Presses a key.
    pub(crate) fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", &json!({ "type": kind, "key": key, "code": key }));
        }
    }

    /// A picture of the whole page.
    pub(crate) fn picture(&mut self) -> String {
        let shot =
            self.call("Page.captureScreenshot", &json!({ "format": "png", "captureBeyondViewport": true }));
        shot["data"].as_str().expect("a picture").to_owned()
    }

    /// Sets what the reader's system prefers: `light` or `dark`.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", &json!({ "features": feature }));
    }

    /// What it asked for but the page itself.
    pub(crate) fn requests(&self) -> Vec<String> {
        let asked = self.heard.iter().filter(|m| m["method"] == "Network.requestWillBeSent");
        let urls = asked.map(|m| m["params"]["request"]["url"].as_str().unwrap_or_default().to_owned());
        urls.filter(|u| !u.ends_with(".html") && !u.starts_with("data:")).collect()
    }

    /// Errors, warnings and whatever a script wrote.
    pub(crate) fn complaints(&self) -> Vec<&Value> {
        let methods = [
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        ];
        self.heard.iter().filter(|m| methods.iter().any(|method| m["method"] == *method)).collect()
    }

    fn until(&mut self, condition: &str) {
        until(condition, || (self.value(condition) == true).then_some(()));
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("it listens");
        loop {
            let heard = self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{method}: {e}"));
            if heard["id"] == self.next {
                assert!(heard.get("error").is_none(), "{method}: {heard}");
                return heard["result"].clone();
            }
            self.heard.push(heard);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.browser.id() as i32) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.browser.wait();
    }
}

/// Writes a picture where somebody wants to look at it (`TESTGROUND_TEST_PICTURES=DIR`).
pub(crate) fn keep(page: &mut Page, name: &str) {
    let Some(dir) = std::env::var_os("TESTGROUND_TEST_PICTURES") else { return };
    let encoded = page.picture();
    let mut decode = Command::new("base64")
        .arg("-d")
        .stdin(Stdio::piped())
        .stdout(File::create(Path::new(&dir).join(format!("{name}.png"))).expect("a file"))
        .spawn()
        .expect("base64 runs");
    decode.stdin.take().expect("a pipe").write_all(encoded.as_bytes()).expect("it reads");
    decode.wait().expect("it ends");
}
