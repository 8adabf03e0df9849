//! The real parts on loopback, without a container engine: Apache Kafka, Apache Cassandra (the same CQL and wire protocol as ScyllaDB) and
//! Apicurio (a schema registry, compatible with Confluent's). They keep what they acknowledged when they are killed. For tests and for trying things; not a way to run them in production.
//!
//! Reading order: this file (what a service is, what can be done with one), [`kafka`], [`cql`], [`registry`] (how each is fetched,
//! configured and asked whether it is ready), [`process`] (pid files and signals), [`maven`] (fetching).

mod cql;
mod kafka;
mod maven;
mod process;
mod registry;

use crate::packages;
use anyhow::{Context as _, bail};
use clap::ValueEnum;
use process::Process;
use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How long a service may take until it answers.
const START: Duration = Duration::from_secs(300);
/// How long a service may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(60);
/// Pause between two looks at a service that is starting or stopping.
const LOOK: Duration = Duration::from_millis(250);
/// How long one question to a service may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What can be done with services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Action {
    /// Fetch (once) and start what does not run; wait until it answers.
    Up,
    /// Stop with SIGTERM.
    Down,
    /// Stop with SIGKILL, as a crash would; data stay.
    Kill,
    /// Kill, and delete the data.
    Wipe,
    /// Say what runs.
    Status,
    /// Down, then up.
    Restart,
}

/// One of the real parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// Apache Kafka, one node.
    Kafka,
    /// Apache Cassandra, one node.
    Cql,
    /// Apicurio, in memory.
    Registry,
}

impl Service {
    /// Every service, in the order in which they are started.
    pub(crate) const ALL: [Self; 3] = [Self::Kafka, Self::Cql, Self::Registry];

    /// The name on the command line and of its folder.
    const fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Cql => "cql",
            Self::Registry => "registry",
        }
    }
}

/// Ports on loopback. The first of each service is for clients, and so is Kafka's with TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    kafka: u16,
    kafka_controller: u16,
    kafka_tls: u16,
    cql: u16,
    cql_storage: u16,
    cql_jmx: u16,
    registry: u16,
}

impl Ports {
    /// What `variable` says, else the defaults. A service's further ports follow its first, so that a second set needs three variables only.
    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let port = |name: &str, default: u16| match variable(name) {
            Some(text) => text.parse::<u16>().with_context(|| format!("{name} is `{text}`: give a port, 1 to 65535")),
            None => Ok(default),
        };
        let kafka = port("BELLWETHER_KAFKA_PORT", 19_092)?;
        let cql = port("BELLWETHER_CQL_PORT", 19_042)?;
        Ok(Self {
            kafka,
            kafka_controller: port("BELLWETHER_KAFKA_CONTROLLER_PORT", kafka.wrapping_add(1))?,
            kafka_tls: port("BELLWETHER_KAFKA_TLS_PORT", kafka.wrapping_add(2))?,
            cql,
            cql_storage: port("BELLWETHER_CQL_STORAGE_PORT", cql.wrapping_add(1))?,
            cql_jmx: port("BELLWETHER_CQL_JMX_PORT", cql.wrapping_add(2))?,
            registry: port("BELLWETHER_REGISTRY_PORT", 18_081)?,
        })
    }

    const fn client(self, service: Service) -> u16 {
        match service {
            Service::Kafka => self.kafka,
            Service::Cql => self.cql,
            Service::Registry => self.registry,
        }
    }
}

/// A set of services: a folder and ports.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    home: PathBuf,
    /// Where the programs are, one copy for all sets.
    programs: PathBuf,
    ports: Ports,
    /// See [`Place::identity`].
    identity: Option<PathBuf>,
    reuse: bool,
}

/// What a service needs to know of its set.
#[derive(Debug)]
struct Place {
    /// Where its program is, or comes to be.
    programs: PathBuf,
    /// Where it keeps its state.
    folder: PathBuf,
    ports: Ports,
    /// PEM file of a private key (PKCS 8) and its certificate. Where one is given, Kafka and the CQL store speak TLS and ask for a password.
    identity: Option<PathBuf>,
}

impl Set {
    /// The set that the environment describes; `reuse` accepts a foreign service that answers.
    pub(crate) fn from_environment(root: &Path, reuse: bool) -> anyhow::Result<Self> {
        let programs = root.join(".services");
        let home = env::var_os("BELLWETHER_SERVICES_HOME").map_or_else(|| programs.clone(), PathBuf::from);
        fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
        let home = home.canonicalize().with_context(|| home.display().to_string())?;
        let identity = env::var_os("BELLWETHER_SERVICES_TLS").map(PathBuf::from);
        let identity =
            identity.map(|path| path.canonicalize().with_context(|| path.display().to_string())).transpose()?;
        Ok(Self { home, programs, ports: Ports::from_variables(|name| env::var(name).ok())?, identity, reuse })
    }

    /// The folder of everything that is fetched.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Does `action` to `services`, all of them where none is named, and says what came of it.
    pub(crate) fn run(&self, action: Action, services: &[Service]) -> anyhow::Result<()> {
        let services = if services.is_empty() { &Service::ALL[..] } else { services };
        match action {
            Action::Up => self.up(services).map(drop),
            Action::Down => self.each(services, |service| self.down(service)),
            Action::Kill => self.each(services, |service| self.kill(service)),
            Action::Wipe => self.each(services, |service| self.wipe(service)),
            Action::Status => self.each(services, |service| {
                self.say_status(service);
                Ok(())
            }),
            Action::Restart => {
                self.run(Action::Down, services)?;
                self.run(Action::Up, services)
            }
        }
    }

    /// Starts what does not run, waits until everything answers, and returns what it started.
    pub(crate) fn up(&self, services: &[Service]) -> anyhow::Result<Vec<Service>> {
        let lock = self.lock()?;
        let mut started = Vec::new();
        // All of them start at once; the waiting comes after.
        for &service in services {
            if self.process(service).is_alive() {
                continue;
            }
            if self.is_taken(service) {
                self.accept_foreign(service)?;
                continue;
            }
            self.start(service).with_context(|| format!("{}: not started", service.name()))?;
            started.push(service);
        }
        drop(lock);
        for &service in services {
            self.wait_until_ready(service)?;
            println!("{} up {}", service.name(), self.address(service));
        }
        Ok(started)
    }

    /// Whether `service` runs and was started from this set's folder.
    pub(crate) fn is_running(&self, service: Service) -> bool {
        self.process(service).is_alive()
    }

    /// Stops `services` with SIGTERM, going on after a failure; the first failure is returned.
    pub(crate) fn stop(&self, services: &[Service]) -> anyhow::Result<()> {
        let results: Vec<anyhow::Result<()>> = services.iter().map(|&service| self.down(service)).collect();
        results.into_iter().collect()
    }

    fn each(&self, services: &[Service], act: impl Fn(Service) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let _lock = self.lock()?;
        services.iter().try_for_each(|&service| act(service).with_context(|| service.name()))
    }

    /// One chore at a time works on a set.
    fn lock(&self) -> anyhow::Result<File> {
        let path = self.home.join("lock");
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        file.lock().with_context(|| path.display().to_string())?;
        Ok(file)
    }

    fn folder(&self, service: Service) -> PathBuf {
        self.home.join(service.name())
    }

    fn process(&self, service: Service) -> Process {
        Process::in_folder(self.folder(service))
    }

    fn address(&self, service: Service) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.client(service)).into()
    }

    fn is_taken(&self, service: Service) -> bool {
        TcpStream::connect_timeout(&self.address(service), ANSWER).is_ok()
    }

    /// The service itself answers, in its own protocol.
    fn probe(&self, service: Service) -> anyhow::Result<()> {
        let address = self.address(service);
        let mut stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        match service {
            Service::Kafka => kafka::ask(&mut stream),
            // A node opens this port when it is ready to serve, so the connection tells enough where only TLS is spoken.
            Service::Cql if self.identity.is_some() => Ok(()),
            Service::Cql => cql::ask(&mut stream),
            Service::Registry => registry::ask(&mut stream),
        }
    }

    fn accept_foreign(&self, service: Service) -> anyhow::Result<()> {
        let (name, address) = (service.name(), self.address(service));
        let taken = format!("{name}: another process, not started from {}, answers on {address}", self.home.display());
        if !self.reuse {
            bail!("{taken}: stop it, choose another port, or accept it with --reuse (BELLWETHER_SERVICES_REUSE=1)");
        }
        self.probe(service).with_context(|| format!("{taken}, and it is no usable {name}"))
    }

    fn start(&self, service: Service) -> anyhow::Result<()> {
        packages::for_services()?;
        let place = Place {
            programs: self.programs.join(service.name()),
            folder: self.folder(service),
            ports: self.ports,
            identity: self.identity.clone(),
        };
        fs::create_dir_all(&place.folder).with_context(|| place.folder.display().to_string())?;
        let mut java = Command::new(packages::java()?);
        match service {
            Service::Kafka => kafka::command(&mut java, &place)?,
            Service::Cql => cql::command(&mut java, &place)?,
            Service::Registry => registry::command(&mut java, &place)?,
        }
        self.process(service).start(&mut java)
    }

    fn wait_until_ready(&self, service: Service) -> anyhow::Result<()> {
        let process = self.process(service);
        let ours = process.is_alive();
        let begin = Instant::now();
        loop {
            let Err(error) = self.probe(service) else { return Ok(()) };
            let problem = if ours && !process.is_alive() {
                "it ended".to_owned()
            } else if begin.elapsed() > START {
                format!("no usable answer on {} within {} s ({error:#})", self.address(service), START.as_secs())
            } else {
                thread::sleep(LOOK);
                continue;
            };
            bail!("{} did not start: {problem}\n{}", service.name(), process.log_tail());
        }
    }

    fn down(&self, service: Service) -> anyhow::Result<()> {
        if self.process(service).stop("TERM", STOP)? {
            println!("{} down", service.name());
        }
        Ok(())
    }

    fn kill(&self, service: Service) -> anyhow::Result<()> {
        if self.process(service).stop("KILL", STOP)? {
            println!("{} killed", service.name());
        }
        Ok(())
    }

    fn wipe(&self, service: Service) -> anyhow::Result<()> {
        self.kill(service)?;
        let data = self.folder(service).join("data");
        if data.exists() {
            fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
        }
        Ok(())
    }

    fn say_status(&self, service: Service) {
        let (name, address) = (service.name(), self.address(service));
        match (self.process(service).is_alive(), self.probe(service)) {
            (true, Ok(())) => println!("{name} up {address}"),
            (true, Err(error)) => println!("{name} runs, but does not answer on {address}: {error:#}"),
            (false, Ok(())) => println!("{name} up {address}, not started from {}", self.home.display()),
            (false, Err(_)) => println!("{name} down"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn without_variables_the_ports_are_those_of_the_documents() {
        let ports = Ports::from_variables(|_| None).unwrap();
        assert_eq!(Service::ALL.map(|service| ports.client(service)), [19_092, 19_042, 18_081]);
    }

    #[test]
    fn inner_ports_follow_the_clients_port_unless_they_are_named() {
        let variables = |name: &str| match name {
            "BELLWETHER_KAFKA_PORT" => Some("29092".to_owned()),
            "BELLWETHER_CQL_PORT" => Some("29042".to_owned()),
            "BELLWETHER_CQL_JMX_PORT" => Some("7199".to_owned()),
            _ => None,
        };
        let ports = Ports::from_variables(variables).unwrap();
        assert_eq!((ports.kafka_controller, ports.kafka_tls), (29_093, 29_094));
        assert_eq!((ports.cql_storage, ports.cql_jmx), (29_043, 7199));
    }

    /// A set whose every port is that of a listener which takes connections and says nothing; the listener ends with its process.
    fn set_on_foreign_port(home: &Path, reuse: bool) -> Set {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || listener.incoming().for_each(drop));
        let ports = Ports::from_variables(|_| Some(port.to_string())).unwrap();
        Set { home: home.to_owned(), programs: home.to_owned(), ports, identity: None, reuse }
    }

    #[test]
    fn a_port_that_another_process_holds_is_an_error_that_names_the_ways_out() {
        let home = tempfile::tempdir().unwrap();
        for service in Service::ALL {
            let error = set_on_foreign_port(home.path(), false).up(&[service]).unwrap_err().to_string();
            assert!(error.contains("another process") && error.contains("--reuse"), "{error}");
        }
    }

    #[test]
    fn a_foreign_service_that_does_not_speak_the_protocol_is_refused_even_for_reuse() {
        let home = tempfile::tempdir().unwrap();
        for service in Service::ALL {
            let error = set_on_foreign_port(home.path(), true).up(&[service]).unwrap_err().to_string();
            assert!(error.contains("no usable"), "{error}");
        }
    }

    #[test]
    fn a_port_that_is_none_is_refused_with_its_variable() {
        let error = Ports::from_variables(|_| Some("kafka".into())).unwrap_err();
        assert!(error.to_string().contains("BELLWETHER_KAFKA_PORT is `kafka`"), "{error}");
    }
}
