//! What comes before the stop: clients that can go elsewhere are asked to, and go on there.

use std::time::Duration;

use tracing::info;

use crate::conn::Context;

/// How long players, and then publishers, may take to go, and no longer than a third of the whole
/// stop. One that dials somewhere else needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes no more clients, asks those that can to go, and waits for them.
pub(super) async fn see_off(context: &Context, drain_timeout: Duration) {
    let leaving = &context.leaving;
    let patience = PATIENCE.min(drain_timeout / 3);
    let (clients, _) = leaving.left();
    leaving.players.cancel();
    // Publishers count as players until they have looked.
    let players = tokio::time::timeout(patience, leaving.players_gone()).await;
    let (players_left, publishers) = leaving.left();
    leaving.publishers.cancel();
    let publishing = tokio::time::timeout(patience, leaving.publishers_gone()).await;
    if clients > 0 {
        let (_, publishers_left) = leaving.left();
        let stayed = players_left + publishers_left;
        let in_time = players.is_ok() && publishing.is_ok();
        info!(asked = clients, publishers, stayed, in_time, "asked clients to connect elsewhere");
    }
}
