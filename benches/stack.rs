//! What functions run in: the engine behind TLS, with a fleet in it.

use std::collections::BTreeMap;

use crate::binaries::Binaries;
use crate::support::tls::TlsProxy;
use crate::system::{Fleet, System, environment};

/// An engine behind TLS, and who is in it.
pub struct Stack {
    pub fleet: Fleet,
    pub tls: TlsProxy,
    _system: System,
}

impl Stack {
    pub async fn start(binaries: &Binaries) -> Self {
        let system = System::in_memory(binaries);
        let upstream = system.dynamodb.trim_start_matches("http://").to_owned();
        let tls = TlsProxy::start(upstream, binaries.folder()).await;
        Self { fleet: system.fleet().await, tls, _system: system }
    }

    /// A function's environment, with what the rivals need besides.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = environment(&self.tls.url);
        let ca_bundle = self.tls.ca_bundle.to_string_lossy();
        for (name, value) in [
            ("AGENT_ID", self.fleet.agent.id.as_str()),
            ("AWS_CA_BUNDLE", &ca_bundle),
            ("NODE_EXTRA_CA_CERTS", &ca_bundle),
        ] {
            environment.insert(name.to_owned(), value.to_owned());
        }
        environment
    }
}
