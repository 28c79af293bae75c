//! These tests can fail: each guarantee that devcluster can be started without is missed by one of them.

use std::{
    env,
    process::{Command, Stdio},
};

use crate::setup::WITHOUT;

/// Whether a test of this program fails on a devcluster without `guarantee`, and not on one with it.
fn notices(test: &str, guarantee: &str) {
    let run = |without: &str| {
        Command::new(env::current_exe().unwrap())
            .args([test, "--exact"])
            .env(WITHOUT, without)
            .env_remove("SCALER_E2E_KUBECONFIG")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert!(run(""), "{test} fails anyway");
    assert!(!run(guarantee), "{test} does not notice that {guarantee} is missing");
}

#[test]
fn a_missing_conflict_is_noticed() {
    notices("objects::a_replace_of_an_old_version_conflicts", "conflict");
    notices("scales::a_scale_is_written_by_put_and_patch", "conflict");
    notices("patches::a_merge_patch_removes_by_null_and_minds_a_version", "conflict");
}

#[test]
fn an_ignored_test_operation_is_noticed() {
    notices("patches::a_failed_test_leaves_all_as_it_was", "conflict");
    notices("patches::a_test_of_the_version_holds_while_it_stands", "conflict");
}

#[test]
fn a_missing_410_is_noticed() {
    notices("watches::a_version_that_is_forgotten_is_gone", "gone");
}

#[test]
fn missing_access_control_is_noticed() {
    notices("access::an_account_may_do_what_its_roles_say_and_no_more", "rbac");
    notices("access::a_rule_can_name_its_objects", "rbac");
}
