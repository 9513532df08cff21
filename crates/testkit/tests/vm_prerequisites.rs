//! What every test with a virtual machine stands on; when this fails, look here first.
//! (It also is the first binary of the `vm` group, whose name `.config/nextest.toml` insists on finding.)

use testkit::{LeakOracle, Scope, SealedEnv, prerequisite};

#[test]
fn kernel_and_images_are_prepared() {
    let cache = prerequisite::test_home().join("cache");
    for name in ["kernels", "initramfs", "images"] {
        let directory = cache.join(name);
        let filled = std::fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some());
        assert!(filled, "`smolvm setup` left nothing in {}", directory.display());
    }
}

#[test]
fn the_command_under_test_answers_and_leaves_nothing() {
    let env = SealedEnv::new();
    let oracle = LeakOracle::snapshot(Scope::of(&env).without_network());
    let ran = env.smolvm(&["version", "--json"]).run();
    ran.assert_ok();
    assert_eq!(ran.json()["ok"], true, "{ran}");
    oracle.assert_clean();
}
