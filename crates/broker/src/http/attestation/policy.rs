//! `GET /policy` and `POST /policy`: the appraisal policies that evidence may be graded by.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use strongroom_wire::attestation_service::PolicyEntry;

use crate::Inner;

/// Lists the ids, with their classes. They say no more than every token does.
pub(crate) async fn list(State(broker): State<Arc<Inner>>) -> Json<Vec<PolicyEntry>> {
    let policies = broker.policies.appraisal();
    let entries = policies.ids().map(|policy_id| PolicyEntry { policy_id });
    Json(entries.collect())
}

/// For admins, unlike upstream's. The message is that of `/kbs/v0/attestation-policy`.
pub(crate) use super::super::kbs::policy::set_appraisal as set;
