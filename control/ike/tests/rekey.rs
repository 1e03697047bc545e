//! Given steady traffic, when children are rekeyed by either side or by both at once, over whatever wire, then no packet is
//! without a home, both sides end with the same children, and no engine keeps one that is not agreed.

mod lab;

use lab::{EAST, PEER, WEST, Wire, World, east_config, west_config};
use penstock_ike::{PeerConfig, RekeyRefused};

const BAD: Wire = Wire { loss_percent: 20, copy_percent: 20, delay_ms: 5, jitter_ms: 100 };

/// Both sides rekey their children at this age, each with its own jitter.
fn every(ms: [u64; 2]) -> [PeerConfig; 2] {
    let mut configs = [west_config(), east_config()];
    configs.iter_mut().zip(ms).for_each(|(config, ms)| config.upkeep.rekey_child_ms = ms);
    configs
}

fn busy(seed: u64, [west, east]: [PeerConfig; 2]) -> World {
    World::busy(seed, west, east)
}

/// Stops rekeying, lets the wire heal, and looks at what is left.
fn calm(world: &mut World, seed: u64, children: usize) {
    world.wire = Wire { delay_ms: 5, ..Wire::default() };
    let [west, east] = all_every(1 << 40, [1 << 40; 2]);
    world.with_ike(WEST, |now, ike| ike.set_peer(now, west));
    world.with_ike(EAST, |now, ike| ike.set_peer(now, east));
    let still = |world: &World| {
        let done = |who| {
            world.ike_sas(who).len() == 1 && world.children(who).len() == children && world.ike_sas(who)[0].children.len() == children
        };
        done(WEST) && done(EAST)
    };
    // What met an obstacle is tried again within this time, and then no more.
    world.run(40_000);
    // A DELETE of an IKE SA whose answer was lost is repeated in vain until it is given up, which hurts nobody.
    world.until(100_000, &format!("seed {seed}: {children} children each"), still);
    world.run(10_000);
    assert!(still(world), "seed {seed}\n{}", world.describe());
    world.assert_agreed();
    for who in [WEST, EAST] {
        let held = world.sites[who].engine.counts(world.now);
        assert_eq!(held, (children, children, 0), "seed {seed}: what the engine holds\n{}", world.describe());
        assert!(world.sites[who].downs.is_empty(), "seed {seed}");
    }
    world.assert_keys_are_used_once();
    assert_eq!(world.lost(), 0, "seed {seed}\n{}", world.describe());
}

fn rekeyed(world: &World, who: usize) -> usize {
    world.sites[who].ups
}

/// As `every`, and the IKE SA as well.
fn all_every(child_ms: u64, ike_ms: [u64; 2]) -> [PeerConfig; 2] {
    let mut configs = every([child_ms; 2]);
    configs.iter_mut().zip(ike_ms).for_each(|(config, ms)| config.upkeep.rekey_ike_ms = ms);
    configs
}

#[test]
fn the_ike_sa_is_rekeyed_and_its_children_notice_nothing() {
    for seed in 0..40 {
        let ms = if seed % 2 == 0 { [2_000, 1 << 40] } else { [1 << 40, 2_000] };
        let mut world = busy(seed, all_every(1 << 40, ms));
        let (spi, children, steps) = (world.ike_sas(WEST)[0].local_spi, world.children(WEST), world.sites[WEST].ups);
        world.run(20_000);
        assert_ne!(world.ike_sas(WEST)[0].local_spi, spi, "another one");
        assert_eq!((world.children(WEST), world.sites[WEST].ups), (children, steps), "with the very same children");
        let said = world.sites[EAST].events.iter().filter(|(_, line)| line.contains("has new keys")).count();
        assert!(said >= 9, "seed {seed}: {said}");
        calm(&mut world, seed, 3);
    }
}

#[test]
fn both_sides_rekey_the_ike_sa_at_once() {
    for seed in 0..80 {
        let mut world = busy(seed, all_every(1 << 40, [1_000 + seed % 30, 1_000]));
        world.wire.delay_ms = 1 + seed % 60;
        world.run(15_000);
        calm(&mut world, seed, 3);
    }
}

#[test]
fn everything_is_rekeyed_by_both_sides_over_a_bad_wire() {
    for seed in 0..120 {
        let mut world = busy(seed, all_every(1_500, [3_000, 4_000]));
        world.wire = if seed % 3 == 0 { world.wire } else { BAD };
        world.engine_ms = seed % 7;
        world.run(30_000);
        calm(&mut world, seed, 3);
    }
}

#[test]
fn one_side_rekeys_under_traffic() {
    for seed in 0..40 {
        let ms = if seed % 2 == 0 { [2_000, 1 << 40] } else { [1 << 40, 2_000] };
        let mut world = busy(seed, every(ms));
        let before = world.children(WEST);
        world.run(20_000);
        assert!(rekeyed(&world, WEST) > 3 * 8, "seed {seed}: {}", rekeyed(&world, WEST));
        assert!(world.children(WEST).iter().all(|pair| !before.contains(pair)), "new SPIs");
        calm(&mut world, seed, 3);
    }
}

#[test]
fn one_side_rekeys_over_a_bad_wire() {
    for seed in 0..60 {
        let ms = if seed % 2 == 0 { [2_000, 1 << 40] } else { [1 << 40, 2_000] };
        let mut world = busy(seed, every(ms));
        world.wire = BAD;
        world.run(20_000);
        calm(&mut world, seed, 3);
    }
}

#[test]
fn both_sides_rekey_at_once_over_a_good_wire() {
    let mut met = [0; 2];
    for seed in 0..60 {
        let mut world = busy(seed, every([1 << 40; 2]));
        world.engine_ms = seed % 5;
        world.wire.delay_ms = 1 + seed % 9;
        for round in 0..10 {
            rekey(&mut world, WEST).expect("up");
            world.run((seed + round) % 13);
            // It may have heard of the other's rekeys by now.
            let _ = rekey(&mut world, EAST);
            world.run(900);
        }
        calm(&mut world, seed, 3);
        met.iter_mut().zip(&world.sites).for_each(|(met, site)| *met += u32::from(site.said("both sides rekeyed one child")));
    }
    assert!(met.iter().all(|met| *met > 20), "they did meet, and each side lost some: {met:?}");
}

#[test]
fn both_sides_rekey_at_once_over_a_bad_wire() {
    for seed in 0..80 {
        let mut world = busy(seed, every([1_500, 1_500]));
        world.wire = BAD;
        world.engine_ms = seed % 7;
        world.run(20_000);
        calm(&mut world, seed, 3);
    }
}

fn rekey(world: &mut World, who: usize) -> Result<usize, RekeyRefused> {
    let (now, site) = (world.now, &mut world.sites[who]);
    let result = site.ike.rekey(now, PEER, &mut site.source);
    world.drain(who);
    result
}
