//! An agent's configuration files, rendered: what it needs to keep itself online.

use serde::Serialize;

use crate::domain::agent::Agent;
use crate::domain::credential::ApiKey;

/// The files of an agent's workspace, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Workspace {
    /// Where the API is, who the agent is, and where its token is.
    #[serde(rename = "TOOLS.md")]
    pub tools: String,
    /// How to send heartbeats, with lines that work as pasted.
    #[serde(rename = "HEARTBEAT.md")]
    pub heartbeat: String,
}

impl Workspace {
    /// Renders the files. `key` is there only in the answer that made it.
    #[must_use]
    pub fn render(agent: &Agent, key: Option<&ApiKey>, base_url: &str) -> Self {
        Self { tools: tools(agent, key, base_url), heartbeat: heartbeat(agent, base_url) }
    }
}

fn tools(agent: &Agent, key: Option<&ApiKey>, base_url: &str) -> String {
    let token = key.map_or_else(
        || {
            "# AUTH_TOKEN was shown once, when the key was made. An operator's rotate-key makes a new one."
                .to_owned()
        },
        |key| format!("AUTH_TOKEN={}", key.reveal()),
    );
    let board = agent.board_id.map(|board_id| board_id.to_string()).unwrap_or_default();
    format!(
        "# TOOLS.md\n\
         \n\
         ```\n\
         BASE_URL={base_url}\n\
         AGENT_ID={}\n\
         BOARD_ID={board}\n\
         {token}\n\
         ```\n\
         \n\
         Send the token in the header `X-Agent-Token`. Keep this file out of logs and repositories.\n",
        agent.agent_id,
    )
}

fn heartbeat(agent: &Agent, base_url: &str) -> String {
    let (interval, tolerance) = (agent.heartbeat().interval_seconds(), agent.heartbeat().tolerance_seconds());
    format!(
        "# HEARTBEAT.md\n\
         \n\
         Send a heartbeat every {interval} seconds. After {tolerance} seconds of silence you count as offline.\n\
         \n\
         Take the token from TOOLS.md, in this folder:\n\
         \n\
         ```sh\n\
         TOKEN=$(sed -n 's/^AUTH_TOKEN=//p' TOOLS.md)\n\
         ```\n\
         \n\
         Send one heartbeat:\n\
         \n\
         ```sh\n\
         curl -fsS -X POST {base_url}/api/v1/agent/heartbeat -H \"X-Agent-Token: $TOKEN\"\n\
         ```\n\
         \n\
         Send one and report your health (`healthy`, `degraded`, `error`, `offline`):\n\
         \n\
         ```sh\n\
         curl -fsS -X POST {base_url}/api/v1/agent/heartbeat -H \"X-Agent-Token: $TOKEN\" \
         -H 'Content-Type: application/json' -d '{{\"status\": \"degraded\"}}'\n\
         ```\n\
         \n\
         Keep sending them:\n\
         \n\
         ```sh\n\
         while sleep {interval}; do curl -fsS -o /dev/null -X POST {base_url}/api/v1/agent/heartbeat \
         -H \"X-Agent-Token: $TOKEN\"; done\n\
         ```\n"
    )
}
