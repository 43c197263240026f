//! Groups of real replicas, each with its log on a simulated disk: scenarios that need more than
//! the core and less than a process. They are listed in `docs/TESTING.md`.

mod alone;
mod caller;
mod clients;
mod events;
mod group;
mod leaders;
mod snapshots;
mod storage;
mod streams;

/// What the scenarios are worth: known bugs that are put back are noticed.
#[cfg(feature = "breaks")]
#[test]
fn known_bugs_are_noticed_by_scenarios() {
    use margay_log::breaks;

    let pairs: [(breaks::Break, fn()); 14] = [
        (breaks::EVENT_LOST, events::watch_no_gap_no_dup_no_time_travel),
        (breaks::EVENT_REPEATED, events::watch_no_gap_no_dup_no_time_travel),
        (breaks::DUPLICATE_APPLIED, clients::client_retry_is_exactly_once),
        (breaks::DUPLICATE_ANSWERED_EMPTY, clients::client_retry_is_exactly_once),
        (breaks::NEW_LEADER_EXPIRES_EARLY, clients::leases_not_mass_revoked_by_stuck_leader),
        (breaks::READ_WITHOUT_ROUND, clients::pending_clients_get_error_on_step_down),
        (breaks::ACK_BEFORE_DURABLE, clients::uncommitted_entries_size_limit_when_no_quorum),
        (breaks::CHANGE_AT_COMMIT, leaders::an_operator_asks_who_does_not_know_the_new_node),
        (breaks::ACK_UNVERIFIED, storage::quorum_lost_data_does_not_overwrite_the_healthy_node),
        (breaks::MATCH_BY_INDEX, storage::quorum_lost_data_does_not_overwrite_the_healthy_node),
        (breaks::WRITE_ERROR_IGNORED, storage::temporary_disk_error_leaves_no_hole_after_rejoin),
        (
            breaks::TORN_TAIL_ACCEPTED,
            storage::corrupt_entry_left_of_head_everywhere_halts_the_group,
        ),
        (breaks::GAP_ACCEPTED, storage::leader_read_error_must_not_send_malformed_prev),
        (breaks::VOTE_NOT_PERSISTED, storage::sync_phase_ack_only_after_term_is_durable),
    ];
    for (bug, scenario) in pairs {
        let _switch = bug.switch_on();
        let noticed = std::panic::catch_unwind(scenario).is_err();
        assert!(noticed, "{} goes unnoticed", bug.name);
    }
}
