//! `POST /api/agents/heartbeat`.

use std::time::Duration;

use crate::support::TestSystem;

/// Issue: a steady heartbeat is one request and one write unit, whatever the gap.
#[tokio::test]
async fn a_steady_heartbeat_is_one_write_whatever_the_gap() {
    let system = TestSystem::start().await;
    let agent = system.verified("steady").await;
    system.beat(&agent, "healthy").await.data();
    for windows in [0, 1, 2, 5, 60, 1_440] {
        system.advance(Duration::from_mins(windows));
        system.proxy.take();
        system.beat(&agent, "healthy").await.data();
        let tally = system.proxy.take();
        assert_eq!(tally.operations(), ["UpdateItem"], "after {windows} windows");
        assert_eq!((tally.write_units(), tally.read_units()), (1.0, 0.0), "after {windows} windows");
        let counters = system.row(&agent).await.into_keys().filter(|name| is_counter(name)).count();
        assert_eq!(counters, 1, "after {windows} windows");
    }
}

/// `b0`…`b60`, `c0`…`c60`.
fn is_counter(name: &str) -> bool {
    name.strip_prefix(['b', 'c']).is_some_and(|slot| slot.parse::<u8>().is_ok())
}
