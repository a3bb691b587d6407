//! Whom the load is put on: a server that runs, one started for it, or an engine in this process.

use super::Bench;
use super::child::Child;
use super::directory::Directory;
use super::plan::Plan;
use super::process;
use crate::base::queue::QueueOptions;
use crate::cli::args::Global;
use crate::cli::connect;
use crate::cli::exit::Failure;
use crate::client::{Client, ClientConfig, Connection, Reading};
use crate::embedded::{Engine, Queue};

/// Where the load goes.
pub(super) enum Target {
    /// Over a socket.
    Service(Service),
    /// Into an engine of this process.
    Embedded(Embedded),
}

/// A server and the queues that were made for the load.
pub(super) struct Service {
    config: ClientConfig,
    admin: Client,
    queues: Vec<String>,
    /// The server's process, where it is one of this machine that can be found.
    pid: Option<u32>,
    /// Ends the server when it goes.
    child: Option<Child>,
}

/// An engine and the queues that were made for the load.
pub(super) struct Embedded {
    pub(super) queues: Vec<Queue>,
    pub(super) engine: Engine,
    _directory: Directory,
}

impl Target {
    /// Gets the queues ready.
    ///
    /// # Errors
    /// No server, or it does not make the queues; no engine.
    pub(super) fn open(global: &Global, bench: &Bench, plan: &Plan) -> Result<Self, Failure> {
        let options = QueueOptions {
            durability: plan.durability,
            payload_bytes_max: QueueOptions::default()
                .payload_bytes_max
                .max(plan.payload.len as u32),
            ..QueueOptions::default()
        };
        // Beside the load of somebody else, and of an earlier run that left its queues.
        let id = u64::from(std::process::id()) << 32 | u64::from(started_micros());
        let names: Vec<String> = (0..plan.queues)
            .map(|place| format!("bench-{id:x}-{place}"))
            .collect();
        if plan.embedded {
            return Embedded::open(bench, &options, &names).map(Target::Embedded);
        }
        Service::open(global, bench, &options, names).map(Target::Service)
    }

    /// CPU seconds that the server has used so far.
    pub(super) fn server_cpu(&self) -> Option<f64> {
        match self {
            Target::Service(service) => process::cpu_seconds(service.pid?),
            Target::Embedded(_) => None,
        }
    }

    /// Jobs that stand in the queues.
    ///
    /// # Errors
    /// The server is gone.
    pub(super) fn ready_jobs(&self) -> Result<u64, Failure> {
        match self {
            Target::Service(service) => {
                let mut ready = 0;
                for name in &service.queues {
                    ready += service.admin.queue_info(name)?.counts.ready;
                }
                Ok(ready)
            }
            Target::Embedded(embedded) => {
                let mut ready = 0;
                for queue in &embedded.queues {
                    ready += queue.stats().map_err(Failure::refused)?.counts.ready;
                }
                Ok(ready)
            }
        }
    }

    /// Removes the queues.
    ///
    /// # Errors
    /// The server does not.
    pub(super) fn clean(self) -> Result<(), Failure> {
        if let Target::Service(service) = self {
            // The server that was started for the load goes with all it has.
            if service.child.is_none() {
                for name in &service.queues {
                    service.admin.delete_queue(name)?;
                }
            }
        }
        Ok(())
    }
}

/// Microseconds of the present second: tells runs of one process id apart.
fn started_micros() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.subsec_micros())
}

impl Service {
    fn open(
        global: &Global,
        bench: &Bench,
        options: &QueueOptions,
        queues: Vec<String>,
    ) -> Result<Self, Failure> {
        let child = bench.spawn.then(|| Child::start(bench)).transpose()?;
        let global = match &child {
            Some(child) => Global {
                server: child.address.clone(),
                ..global.clone()
            },
            None => global.clone(),
        };
        let config = connect::config(&global)?;
        let admin = Client::connect(config.clone())?;
        for name in &queues {
            admin.create_queue(name, options)?;
        }
        let pid = match &child {
            Some(child) => Some(child.pid()),
            None => process::listening_at(&config.server),
        };
        Ok(Self {
            config,
            admin,
            queues,
            pid,
            child,
        })
    }

    /// A connection of its own, with the queues of these places.
    ///
    /// # Errors
    /// The server is gone.
    pub(super) fn connect(&self, places: &[usize], reading: Reading) -> Result<Connection, Failure> {
        let names: Vec<&str> = places.iter().map(|place| self.queues[*place].as_str()).collect();
        Ok(Connection::open(self.config.clone(), &names, reading)?)
    }
}

impl Embedded {
    fn open(bench: &Bench, options: &QueueOptions, names: &[String]) -> Result<Self, Failure> {
        let directory = Directory::make(bench.data.as_deref())?;
        let engine = Engine::open(directory.path()).map_err(Failure::refused)?;
        let mut queues = Vec::with_capacity(names.len());
        for name in names {
            queues.push(engine.create_queue(name, options).map_err(Failure::refused)?);
        }
        Ok(Self {
            queues,
            engine,
            _directory: directory,
        })
    }
}
