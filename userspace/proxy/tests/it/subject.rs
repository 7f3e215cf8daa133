//! The proxy under test.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir_model::status::ProxyStatus;
use weir_runtime::status;

/// How long anything may take before a test gives up on it.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_weir-proxy");

pub(crate) struct Proxy {
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // They may have ended already. A keeper goes first, for it would start another one.
        let kept = self.children();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in kept {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("--- log of the proxy ---\n{}", self.log());
        }
    }
}

impl Proxy {
    /// Starts with `config` and waits until it has a status.
    pub(crate) async fn start(config: &str, options: &[&str]) -> Self {
        Self::start_with_files(config, &[], options).await
    }

    pub(crate) async fn start_with_files(config: &str, files: &[(&str, String)], options: &[&str]) -> Self {
        let proxy = Self::spawn(config, files, options);
        proxy.until("it has started", |status| status.config.applied_at.is_some()).await;
        proxy
    }

    /// Starts, and waits for nothing.
    pub(crate) fn spawn(config: &str, files: &[(&str, String)], options: &[&str]) -> Self {
        Self::spawn_by(Path::new(PROGRAM), config, files, options, |_| {})
    }

    /// The same by another name of the program, and with a say in how it is started.
    pub(crate) fn spawn_by(
        program: &Path,
        config: &str,
        files: &[(&str, String)],
        options: &[&str],
        say: impl FnOnce(&mut Command),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("config")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join("config").join(name), text).unwrap();
        }
        std::fs::write(dir.path().join("config/a.toml"), config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new(program);
        say(&mut command);
        let child = command
            .arg(dir.path().join("config"))
            .arg("--run-dir")
            .arg(dir.path().join("run"))
            .arg("--access-log")
            .arg(dir.path().join("access.log"))
            .args(["--log", "info,weir_proxy=debug"])
            .args(options)
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processes of a keeper.
    pub(crate) fn children(&self) -> BTreeSet<i32> {
        let pid = self.pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir().join("proxy.sock")
    }

    pub(crate) async fn status(&self) -> Option<ProxyStatus> {
        status::fetch(&self.socket()).await.ok()
    }

    pub(crate) async fn metrics(&self) -> String {
        let text = status::get(&self.socket(), "/metrics").await.unwrap();
        String::from_utf8(text.to_vec()).unwrap()
    }

    /// Waits for a status.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&ProxyStatus) -> bool) -> ProxyStatus {
        let deadline = Instant::now() + LIMIT;
        let mut last = None;
        while Instant::now() < deadline {
            last = self.status().await;
            if let Some(status) = &last
                && wanted(status)
            {
                return last.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain until {what}; last status: {last:#?}");
    }

    /// The address of a listener.
    pub(crate) async fn address(&self, listener: &str) -> SocketAddr {
        let listening =
            |status: &ProxyStatus| status.listeners.get(listener).is_some_and(|l| !l.addresses.is_empty());
        let status = self.until("the listener is open", listening).await;
        status.listeners[listener].addresses[0].parse().unwrap()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.config_dir().join(file), text).unwrap();
    }

    pub(crate) fn config_dir(&self) -> PathBuf {
        self.dir.path().join("config")
    }

    pub(crate) fn log(&self) -> String {
        read(&self.dir.path().join("log"))
    }

    /// The access log, as soon as it has so many lines: they are written after the client has its answer.
    pub(crate) async fn logged(&self, count: usize) -> Vec<serde_json::Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = read(&self.dir.path().join("access.log"));
            let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            let lines: Vec<_> = complete.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < deadline, "waited in vain for {count} lines: {lines:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) async fn exited(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the proxy did not end");
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
