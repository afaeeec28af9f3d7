//! The built server as a process, and what the system says of it.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a start or an orderly stop may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server with a configuration and data of its own, which go with it.
pub struct Server {
    child: Child,
    process: PathBuf,
    pub port: u16,
    _folder: TempDir,
}

/// What the system says of the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    pub resident_bytes: u64,
    pub files: usize,
    /// Those of the files that are sockets.
    pub sockets: usize,
    pub threads: u64,
}

impl Server {
    /// Starts the server with this configuration.
    pub async fn start(config: &Value) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = folder.path().join("config.json");
        fs::write(&file, config.to_string()).map_err(|error| error.to_string())?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_noex-server"))
            .arg("--config")
            .arg(file)
            .args(["--port", "0"])
            .env("NOEX_DATA_DIR", folder.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let stdout = child.stdout.take().ok_or("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let listening = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("ws://") {
                    return line.rsplit(':').next().and_then(|digits| digits.trim().parse().ok());
                }
            }
            None
        };
        let port = timeout(PATIENCE, listening)
            .await
            .ok()
            .flatten()
            .ok_or("the server does not start")?;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let process = PathBuf::from(format!("/proc/{}", child.id().ok_or("the server has ended")?));
        Ok(Self {
            child,
            process,
            port,
            _folder: folder,
        })
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(self.process.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    /// What it takes up at present.
    pub fn footprint(&self) -> Footprint {
        let links: Vec<PathBuf> = fs::read_dir(self.process.join("fd"))
            .map(|files| files.flatten().filter_map(|file| fs::read_link(file.path()).ok()).collect())
            .unwrap_or_default();
        Footprint {
            resident_bytes: self.status("VmRSS") * 1024,
            files: links.len(),
            sockets: links.iter().filter(|link| link.to_string_lossy().starts_with("socket:")).count(),
            threads: self.status("Threads"),
        }
    }

    /// The processor time it has taken since it started, to a hundredth of a second.
    pub fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(self.process.join("stat")).unwrap_or_default();
        // The fields after the name of the program, which may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        // A tick has been a hundredth of a second on every Linux for decades.
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }

    /// Ends the server in order; whether it went well.
    pub async fn stop(mut self) -> Result<(), String> {
        let pid = self.child.id().ok_or("the server has ended before its time")?;
        // The shell's own `kill`: there need not be a program of that name.
        let signalled = Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().await;
        signalled.map_err(|error| error.to_string())?;
        match timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("the server ends with {status}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the server does not stop".to_owned()),
        }
    }
}
