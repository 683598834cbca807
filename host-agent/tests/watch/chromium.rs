//! A headless Chromium, controlled over a pipe: one page, commands of the DevTools protocol, and all messages of its console.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Deadline of each wait, generous enough for a slow and busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// Names under which the program is searched for, if the environment names none.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// A browser with one page.
pub struct Chromium {
    process: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    number: u64,
    session: String,
    /// Messages of the console, uncaught exceptions, and violations of the Content Security Policy.
    pub complaints: Vec<String>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts a browser, or returns `None` if this machine has none.
    pub fn start() -> Option<Self> {
        let program = find()?;
        let profile = tempfile::tempdir().unwrap();
        // With `--remote-debugging-pipe`, Chromium reads commands from file descriptor 3 and answers on 4.
        let mut process = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 1>&2 0</dev/null", "sh"])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args([
                "--hide-scrollbars",
                "--remote-debugging-pipe",
                "about:blank",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (to, answers) = (
            process.stdin.take().unwrap(),
            process.stdout.take().unwrap(),
        );
        let (sender, from) = channel();
        std::thread::spawn(move || {
            let mut answers = BufReader::new(answers);
            loop {
                let mut message = vec![];
                match answers.read_until(0, &mut message) {
                    Ok(count) if count > 1 => {}
                    _ => return,
                }
                message.pop();
                let message = serde_json::from_slice(&message).unwrap();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut browser = Self {
            process,
            to,
            from,
            number: 0,
            session: String::new(),
            complaints: vec![],
            _profile: profile,
        };
        let targets = browser.ask("Target.getTargets", json!({}));
        let targets = targets["targetInfos"].as_array().unwrap();
        let page = targets
            .iter()
            .find(|target| target["type"] == "page")
            .unwrap();
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let attached = browser.ask("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.ask(domain, json!({}));
        }
        Some(browser)
    }

    /// Emulates a screen of this size, a colour scheme, and the preference for reduced motion.
    pub fn dress(&mut self, (width, height): (u32, u32), dark: bool, still: bool) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": if width < 500 { 2 } else { 1 }, "mobile": width < 500
        });
        self.ask("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        let motion = if still { "reduce" } else { "no-preference" };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            { "name": "prefers-reduced-motion", "value": motion },
        ]);
        self.ask(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        );
    }

    /// Allows or forbids scripts in pages.
    pub fn scripts(&mut self, run: bool) {
        self.ask(
            "Emulation.setScriptExecutionDisabled",
            json!({ "value": !run }),
        );
    }

    /// Opens a page and waits until it has loaded.
    pub fn open(&mut self, address: &str) {
        let opened = self.ask("Page.navigate", json!({ "url": address }));
        assert!(opened["errorText"].is_null(), "{address}: {opened}");
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'");
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let end = Instant::now() + DEADLINE;
        let wanted = json!({ "expression": expression, "returnByValue": true });
        // While a page loads, there is no context to evaluate in, and the command fails.
        while !matches!(self.try_ask("Runtime.evaluate", wanted.clone()), Ok(found) if found["result"]["value"] == true)
        {
            assert!(Instant::now() < end, "never true: {expression}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let wanted = json!({ "expression": expression, "returnByValue": true });
        let answer = self.ask("Runtime.evaluate", wanted);
        assert!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        answer["result"]["value"].clone()
    }

    /// Returns a screenshot as PNG: of the whole page if `whole`, otherwise of the visible part.
    pub fn picture(&mut self, whole: bool) -> Vec<u8> {
        let wanted = json!({ "format": "png", "captureBeyondViewport": whole });
        let answer = self.ask("Page.captureScreenshot", wanted);
        let data = answer["data"].as_str().unwrap();
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).unwrap()
    }

    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        match self.try_ask(method, parameters) {
            Ok(answer) => answer,
            Err(error) => panic!("{method}: {error}"),
        }
    }

    fn try_ask(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.number += 1;
        let mut message = json!({ "id": self.number, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = Value::String(self.session.clone());
        }
        self.to.write_all(message.to_string().as_bytes()).unwrap();
        self.to.write_all(&[0]).unwrap();
        self.to.flush().unwrap();
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut answer = self
                .from
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("no answer to {method}"));
            if answer["id"] == self.number {
                return match answer["error"].take() {
                    Value::Null => Ok(answer["result"].take()),
                    error => Err(error),
                };
            }
            let words = match answer["method"].as_str() {
                Some("Log.entryAdded") => &answer["params"]["entry"],
                Some("Runtime.exceptionThrown") => &answer["params"]["exceptionDetails"],
                Some("Runtime.consoleAPICalled") => &answer["params"]["args"],
                _ => continue,
            };
            self.complaints.push(words.to_string());
        }
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn find() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("COCOON_CHROMIUM") {
        return Some(named.into());
    }
    let folders = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let all = NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    all.into_iter().find(|path| path.is_file())
}
