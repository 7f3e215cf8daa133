//! A model of one row on several balancers: every order in which they may go their steps, every flow, every way to it.

use std::collections::BTreeSet;

use super::*;

const HOLD: Duration = Duration::from_secs(3600);
/// Backend slots of the model.
const HOSTS: usize = 6;

/// One thing that happens to the row, and when.
#[derive(Clone, Copy)]
struct Change {
    at: Duration,
    target: u16,
    /// Hosts that get no new flows but have old ones.
    drained: &'static [u16],
    dead: &'static [u16],
}

fn change(at: Duration, target: u16) -> Change {
    Change { at, target, drained: &[], dead: &[] }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The states a balancer goes through, woken whenever it wants to be, until nothing is left to do.
fn states(first: Slot, changes: &[Change]) -> Vec<(Duration, Slot)> {
    states_with(first, changes, &[])
}

/// The same with hosts that carry no second hop.
fn states_with(first: Slot, changes: &[Change], single: &[u16]) -> Vec<(Duration, Slot)> {
    let single: Vec<bool> = (0..HOSTS).map(|slot| single.contains(&(slot as u16))).collect();
    let (mut slot, mut held, mut stepped) = (first, 0, Duration::ZERO);
    let mut states = vec![(Duration::ZERO, slot)];
    for (number, change) in changes.iter().enumerate() {
        let until = changes.get(number + 1).map_or(Duration::MAX, |next| next.at);
        let marks = |without: &[u16]| (0..HOSTS).map(|s| !without.contains(&(s as u16))).collect::<Vec<_>>();
        let (alive, mut wanted) = (marks(change.dead), marks(change.dead));
        change.drained.iter().for_each(|slot| wanted[*slot as usize] = false);
        let mut now = change.at;
        while now < until {
            let (flow_hold, single) = (HOLD, &single[..]);
            let rules =
                Rules { now, stepped, started: false, flow_hold, alive: &alive, wanted: &wanted, single };
            let row = rules.next(slot, held, change.target);
            if row.stepped {
                stepped = now;
            }
            if row.slot != slot {
                states.push((now, row.slot));
            }
            (slot, held) = (row.slot, row.held);
            let Some(wake) = row.wake else { break };
            assert!(wake > now, "a row that waits for the past");
            now = wake;
        }
    }
    states
}

fn rows(states: &[(Duration, Slot)]) -> Vec<(u16, u16)> {
    states.iter().map(|(_, slot)| (slot.owner, slot.previous)).collect()
}

/// Whether a packet of a flow on `host` comes to it: the first hop keeps what it knows, the last keeps everything.
fn reaches(slot: Slot, host: u16) -> bool {
    slot.owner == host || slot.previous == host
}

/// Everything that can be: where the balancers are, and the host of one flow (all flows are alike, so one is enough).
/// Goes through every order of steps in which no two balancers are further than `apart` from each other, with the flow
/// opened at every moment through every balancer; returns the (opened at, opened in state, lost in state) of broken flows.
fn broken(states: &[Slot], balancers: usize, apart: usize) -> BTreeSet<(usize, usize)> {
    let (mut seen, mut broken) = (BTreeSet::new(), BTreeSet::new());
    // The state in which the flow was opened, if it was.
    let mut todo = vec![(vec![0usize; balancers], None::<usize>)];
    while let Some((at, flow)) = todo.pop() {
        if !seen.insert((at.clone(), flow)) {
            continue;
        }
        if let Some(opened) = flow {
            let host = states[opened].owner;
            broken.extend(at.iter().filter(|at| !reaches(states[**at], host)).map(|at| (opened, *at)));
        } else {
            todo.extend(at.iter().map(|state| (at.clone(), Some(*state))));
        }
        for balancer in 0..balancers {
            let mut next = at.clone();
            next[balancer] += 1;
            let (least, most) = (next.iter().min().unwrap(), next.iter().max().unwrap());
            if *most < states.len() && most - least <= apart {
                todo.push((next, flow));
            }
        }
    }
    broken
}

fn slots(states: &[(Duration, Slot)]) -> Vec<Slot> {
    states.iter().map(|(_, slot)| *slot).collect()
}

const SETTLED: Slot = Slot { owner: 1, previous: 0 };

#[test]
fn a_change_prepares_flips_and_settles() {
    let calm = states(SETTLED, &[change(secs(10), 2)]);
    assert_eq!(rows(&calm), [(1, 0), (1, 2), (2, 1), (2, 0)]);
    assert_eq!(calm[2].0 - calm[1].0, FLIP_CALM);
    assert!((HOLD..=HOLD + secs(1)).contains(&(calm[3].0 - calm[2].0)), "{calm:?}");
    let drain = states(SETTLED, &[Change { drained: &[1], ..change(secs(10), 2) }]);
    assert_eq!(rows(&drain), rows(&calm));
    assert_eq!(drain[2].0 - drain[1].0, FLIP_DRAIN);
}

#[test]
fn a_drain_at_the_worst_moment_takes_less_than_100_ms() {
    for delay_ms in 0..200 {
        let drain_at = secs(10) + Duration::from_millis(delay_ms);
        let states =
            states(SETTLED, &[change(secs(10), 2), Change { drained: &[1, 2], ..change(drain_at, 3) }]);
        let last = states.iter().find(|(_, slot)| slot.owner == 3).expect("flipped");
        assert!(last.0 <= drain_at + 2 * FLIP_DRAIN, "{delay_ms}: {states:?}");
    }
}

#[test]
fn a_dead_owner_is_replaced_at_once() {
    let dead = Change { dead: &[1], ..change(secs(10), 2) };
    assert_eq!(rows(&states(SETTLED, &[dead])), [(1, 0), (2, 0)]);
    // Also one that died while it was being replaced, and one with flows of another behind it.
    let dead = Change { dead: &[1], ..change(secs(10) + FLIP_DRAIN / 2, 2) };
    assert_eq!(rows(&states(SETTLED, &[change(secs(10), 2), dead])), [(1, 0), (1, 2), (2, 0)]);
    let dead = Change { dead: &[2], ..change(secs(20), 3) };
    assert_eq!(
        rows(&states(SETTLED, &[change(secs(10), 2), dead])),
        [(1, 0), (1, 2), (2, 1), (3, 1), (3, 0)]
    );
}

#[test]
fn balancers_in_neighbouring_states_agree_on_every_flow_in_every_order() {
    let change = slots(&states(SETTLED, &[change(secs(10), 2)]));
    let unsettled = &change[..3];
    for balancers in [1, 2, 3] {
        assert_eq!(broken(unsettled, balancers, 1), BTreeSet::new(), "{balancers} balancers");
    }
}

#[test]
fn a_balancer_two_states_behind_loses_only_what_was_opened_meanwhile() {
    let change = slots(&states(SETTLED, &[change(secs(10), 2)]));
    for balancers in [2, 3] {
        // Opened after the flip, met by a balancer that has not heard of the change: nothing else.
        assert_eq!(broken(&change[..3], balancers, 2), BTreeSet::from([(2, 0)]));
        // With rows that settle: flows that have outlived `flow_hold` are lost too, wherever they were opened.
        let settling = broken(&change, balancers, 3);
        assert_eq!(settling, BTreeSet::from([(2, 0), (3, 0), (0, 3), (1, 3)]));
    }
}

#[test]
fn a_change_taken_back_loses_nothing_in_every_order() {
    for back_at in [secs(10) + FLIP_CALM / 2, secs(10) + FLIP_CALM * 2, secs(1000)] {
        let back = states(SETTLED, &[change(secs(10), 2), change(back_at, 1)]);
        let unsettled = &slots(&back)[..back.len() - 1];
        assert_eq!(unsettled.last(), Some(&Slot { owner: 1, previous: 2 }));
        for balancers in [2, 3] {
            assert_eq!(broken(unsettled, balancers, 1), BTreeSet::new(), "{back:?}");
        }
    }
}

#[test]
fn the_elder_of_a_row_stays_through_any_number_of_quick_changes() {
    for [second, third, fourth] in [[1, 3, 4], [3, 1, 2], [3, 2, 4], [1, 2, 3], [2, 1, 3]] {
        for gap_ms in [20, 60, 500, 1_500, 30_000] {
            let at = |number: u32| secs(10) + Duration::from_millis(gap_ms) * number;
            let changes =
                [change(at(0), 2), change(at(1), second), change(at(2), third), change(at(3), fourth)];
            for (at, slot) in &states(SETTLED, &changes) {
                let held = *at < HOLD / 2;
                assert!(
                    !held || reaches(*slot, 1),
                    "{second} {third} {fourth} every {gap_ms} ms: {at:?} {slot:?}"
                );
            }
        }
    }
}

#[test]
fn a_second_change_keeps_the_flows_of_the_owner_that_had_the_row_for_long() {
    // Soon after the first the first owner has nearly all flows, and not for a moment is it out of the row.
    let soon = states(SETTLED, &[change(secs(10), 2), change(secs(100), 3)]);
    assert_eq!(rows(&soon), [(1, 0), (1, 2), (2, 1), (1, 3), (3, 1), (3, 0)]);
    let lost = broken(&slots(&soon)[..5], 2, 1);
    assert_eq!(lost, BTreeSet::from([(2, 3), (2, 4)]), "only flows opened at the second owner");
    // A drained one gets no new flow again.
    let drained = [&[1][..], &[1, 2]];
    let [first, second] = drained.map(|drained| Change { drained, ..change(secs(10), 2) });
    let soon = states(SETTLED, &[first, Change { at: secs(100), target: 3, ..second }]);
    assert_eq!(rows(&soon), [(1, 0), (1, 2), (2, 1), (3, 1), (3, 0)]);
    assert!(soon[4].0 <= secs(10) + FLIP_DRAIN + HOLD + secs(1), "held no longer than from its own change");
    let lost = broken(&slots(&soon)[..4], 2, 1);
    assert_eq!(lost, BTreeSet::from([(2, 3), (3, 2)]));
    // Late: the second owner has most of them.
    let late = states(SETTLED, &[change(secs(10), 2), change(secs(10) + HOLD / 2, 3)]);
    assert_eq!(rows(&late), [(1, 0), (1, 2), (2, 1), (2, 3), (3, 2), (3, 0)]);
    // While it is only prepared, the second owner has none.
    let change_of_mind = states(SETTLED, &[change(secs(10), 2), change(secs(10) + FLIP_CALM / 2, 3)]);
    assert_eq!(rows(&change_of_mind), [(1, 0), (1, 2), (1, 3), (3, 1), (3, 0)]);
}

#[test]
fn a_dead_second_hop_leaves_the_row_even_while_it_waits() {
    let rules = Rules {
        now: secs(10),
        stepped: secs(10),
        started: false,
        flow_hold: HOLD,
        alive: &[false, true, false, true],
        wanted: &[false, true, false, true],
        single: &[],
    };
    let row = rules.next(Slot { owner: 1, previous: 2 }, 5, 3);
    assert_eq!((row.slot, row.held, row.stepped), (SETTLED, 0, false));
}

#[test]
fn a_row_of_a_host_that_carries_no_second_hop_is_settled_at_once() {
    let two = [change(secs(10), 2)];
    let rows_with = |single: &[u16]| rows(&states_with(SETTLED, &two, single));
    assert_eq!(rows_with(&[2]), [(1, 0), (1, 2), (2, 0)]);
    assert_eq!(rows_with(&[1]), [(1, 0), (2, 1), (2, 0)]);
    assert_eq!(rows_with(&[1, 2]), [(1, 0), (2, 0)]);
    let when: Vec<_> = states_with(SETTLED, &two, &[1, 2]).iter().map(|(at, _)| *at).collect();
    assert_eq!(when, [secs(0), secs(10)]);
    // A drain waits no longer for it than for others.
    let drained = [Change { drained: &[1], ..two[0] }];
    let states = states_with(SETTLED, &drained, &[2]);
    assert_eq!(states[2], (secs(10) + FLIP_DRAIN, Slot { owner: 2, previous: 0 }));
    // An elder behind the owner goes when the row does, and a third owner finds nothing to hold.
    let back = [change(secs(10), 2), change(secs(100), 3)];
    assert_eq!(rows(&states_with(SETTLED, &back, &[3])).last(), Some(&(3, 0)));
}
