//! The daemons with one of the protocol's rules left out: the tests must find the loss.

use scaler_types::protocol::Rules;

/// The variable that names the rules to leave out, separated by commas.
pub const WITHOUT: &str = "SCALER_WITHOUT";

/// All rules but those that [`WITHOUT`] names.
///
/// # Panics
///
/// It names none, or one there is not.
pub fn rules() -> Rules {
    let mut rules = Rules::default();
    let names = std::env::var(WITHOUT).unwrap_or_else(|_| panic!("{WITHOUT} names the rules to leave out"));
    for name in names.split(',') {
        let rule = match name {
            "commit_tests_version" => &mut rules.commit_tests_version,
            "confirm_tests_nonce" => &mut rules.confirm_tests_nonce,
            "confirm_counts_in_flight" => &mut rules.confirm_counts_in_flight,
            "revert_before_forward" => &mut rules.revert_before_forward,
            "own_write_is_ordered" => &mut rules.own_write_is_ordered,
            "wait_for_all" => &mut rules.wait_for_all,
            "members_after_fence" => &mut rules.members_after_fence,
            _ => panic!("{WITHOUT}: there is no rule {name:?}"),
        };
        *rule = false;
    }
    rules
}
