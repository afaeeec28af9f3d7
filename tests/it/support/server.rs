//! The server as its users run it: the built binary, a configuration file, a data directory.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::TestClient;

/// How long a start or an orderly stop may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A configuration file and a data directory, both in a temporary folder that goes with the last handle.
#[derive(Clone)]
pub struct Site {
    folder: Arc<TempDir>,
    config: Value,
}

impl Site {
    pub fn new(mut config: Value) -> Self {
        if config.get("host").is_none() {
            config["host"] = json!("127.0.0.1");
        }
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder"));
        std::fs::write(folder.path().join("config.json"), config.to_string()).expect("a configuration file");
        Self { folder, config }
    }

    pub fn config(&self) -> &Value {
        &self.config
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The command that serves this site on a free port.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_noex-server"));
        command
            .arg("--config")
            .arg(self.config_file())
            .args(["--port", "0"])
            .env("NOEX_DATA_DIR", self.data_dir())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// What a server said that ended instead of listening.
#[derive(Debug)]
pub struct Refusal {
    pub status: ExitStatus,
    pub stderr: String,
}

/// A server that listens. It is killed when it is dropped.
pub struct TestServer {
    child: Child,
    port: u16,
    banner: String,
    site: Site,
    stderr: watch::Receiver<String>,
}

impl TestServer {
    /// Starts a server with this configuration and an empty data directory.
    pub async fn start(config: Value) -> Self {
        Self::serve(&Site::new(config)).await
    }

    /// Starts a server on a site that may hold data already.
    pub async fn serve(site: &Site) -> Self {
        match Self::launch(site).await {
            Ok(server) => server,
            Err(refusal) => panic!("the server did not start: {refusal:?}"),
        }
    }

    /// Starts a server, or says why it would not start.
    pub async fn launch(site: &Site) -> Result<Self, Refusal> {
        Self::launch_command(site.command(), site).await
    }

    /// As `launch`, with a command that came from the site and was given more flags or another environment.
    pub async fn launch_command(mut command: Command, site: &Site) -> Result<Self, Refusal> {
        let mut child = command.spawn().expect("the server's binary can be started");
        let (lines, stderr) = watch::channel(String::new());
        let errors = tokio::spawn(collect(child.stderr.take().expect("standard error is piped"), lines));
        let stdout = child.stdout.take().expect("standard output is piped");
        match timeout(PATIENCE, read_banner(stdout))
            .await
            .expect("the server listens or ends in time")
        {
            Some((port, banner)) => Ok(Self {
                child,
                port,
                banner,
                site: site.clone(),
                stderr,
            }),
            None => Err(refusal(child, errors, &stderr).await),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The line of the banner that holds the address.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    pub fn site(&self) -> &Site {
        &self.site
    }

    /// What the server has written on standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.borrow().clone()
    }

    /// Waits until the server has written a text on standard error, behind so many bytes of it.
    pub async fn says(&self, text: &str, behind: usize) {
        let mut stderr = self.stderr.clone();
        let written = timeout(PATIENCE, stderr.wait_for(|log| log[behind..].contains(text))).await;
        assert!(matches!(written, Ok(Ok(_))), "{text:?} is not said: {}", self.stderr());
    }

    pub async fn connect(&self) -> TestClient {
        TestClient::connect(self.port).await
    }

    /// Sends a signal by its name: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().expect("the server runs");
        // The shell's own `kill`: there need not be a program of that name.
        let sent = std::process::Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status()
            .expect("a shell");
        assert!(sent.success(), "signal {name} could not be sent");
    }

    /// Waits until the server ends by itself.
    pub async fn exit(&mut self, within: Duration) -> Option<ExitStatus> {
        timeout(within, self.child.wait())
            .await
            .ok()
            .map(|status| status.expect("its status can be had"))
    }

    /// Ends the server in order.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.exit(PATIENCE)
            .await
            .unwrap_or_else(|| panic!("the server does not stop: {}", self.stderr()))
    }

    /// Ends the server as a power failure of the process would: SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the server can be killed");
    }
}

/// The port and the line that tells it, or nothing where the output ends without one.
async fn read_banner(stdout: ChildStdout) -> Option<(u16, String)> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await.expect("text on standard output") {
        if line.contains("ws://") {
            let port = line.rsplit(':').next().and_then(|digits| digits.trim().parse().ok());
            let port = port.unwrap_or_else(|| panic!("the banner ends in no port: {line:?}"));
            // Whatever follows is read away, so that the server never waits for a reader.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Some((port, line));
        }
    }
    None
}

async fn refusal(mut child: Child, errors: JoinHandle<()>, stderr: &watch::Receiver<String>) -> Refusal {
    let status = timeout(PATIENCE, child.wait())
        .await
        .expect("the server ends in time")
        .expect("its status can be had");
    errors.await.expect("standard error can be read");
    Refusal {
        status,
        stderr: stderr.borrow().clone(),
    }
}

async fn collect(mut from: impl AsyncRead + Unpin, into: watch::Sender<String>) {
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        into.send_modify(|log| log.push_str(&String::from_utf8_lossy(&chunk[..length])));
    }
}
