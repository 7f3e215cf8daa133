use std::time::{Duration, Instant};

use super::{
    Command, Exit, Keeper, Limits, Pid,
    notice::{self, Notice},
    store::{Store, Stored},
};

const MS: Duration = Duration::from_millis(1);
const LIMITS: Limits = Limits { ready: Duration::from_secs(30), leave: Duration::from_secs(60) };

/// All that is to be done, without the words.
fn commands(keeper: &mut Keeper) -> Vec<Command> {
    let all = std::iter::from_fn(|| keeper.poll_command());
    all.filter(|command| !matches!(command, Command::Tell(_) | Command::Warn(_))).collect()
}

/// One that serves, with a process of this number.
fn serving(pid: Pid, now: Instant) -> Keeper {
    let mut keeper = Keeper::new(LIMITS);
    assert_eq!(commands(&mut keeper), [Command::Start]);
    keeper.started(pid, now);
    keeper.handle_ready(pid, now);
    assert_eq!(commands(&mut keeper), [Command::Promote(pid)]);
    assert_eq!(keeper.poll_timeout(), None);
    keeper
}

#[test]
fn a_first_start_that_fails_ends_the_keeper_with_the_same_status() {
    let now = Instant::now();
    let mut keeper = Keeper::new(LIMITS);
    keeper.started(1, now);
    keeper.handle_exit(1, Exit::Code(7), now);
    assert_eq!(commands(&mut keeper), [Command::Start, Command::End(7)]);
}

#[test]
fn what_dies_is_started_again_at_once_and_then_after_longer_and_longer_pauses() {
    let mut now = Instant::now();
    let mut keeper = serving(1, now);
    let mut pauses = Vec::new();
    for pid in 1..8 {
        keeper.handle_exit(pid, Exit::Signal(9), now);
        let at = keeper.poll_timeout().unwrap();
        pauses.push((at - now).as_millis());
        now = at;
        keeper.handle_timeout(now);
        assert_eq!(commands(&mut keeper), [Command::Start]);
        keeper.started(pid + 1, now);
    }
    assert_eq!(pauses, [0, 100, 200, 400, 800, 1000, 1000]);
    // Once it has served for a while, all is forgotten.
    keeper.handle_ready(8, now);
    now += Duration::from_secs(10);
    keeper.handle_exit(8, Exit::Code(1), now);
    assert_eq!(keeper.poll_timeout(), Some(now));
}

#[test]
fn a_successor_that_is_ready_takes_over_and_the_old_one_leaves_by_its_deadline() {
    let now = Instant::now();
    let mut keeper = serving(1, now);
    keeper.handle_upgrade();
    keeper.handle_upgrade();
    assert_eq!(commands(&mut keeper), [Command::Start], "one at a time");
    keeper.started(2, now);
    assert_eq!(keeper.current(), Some(1));
    keeper.handle_ready(2, now + 5 * MS);
    assert_eq!(commands(&mut keeper), [Command::HandOver(1), Command::Promote(2)]);
    assert_eq!(keeper.current(), Some(2));
    let deadline = now + 5 * MS + LIMITS.leave;
    assert_eq!(keeper.poll_timeout(), Some(deadline));
    keeper.handle_timeout(deadline);
    assert_eq!(commands(&mut keeper), [Command::Kill(1)]);
    keeper.handle_exit(1, Exit::Signal(9), deadline);
    assert_eq!((commands(&mut keeper), keeper.poll_timeout()), (vec![], None));
}

#[test]
fn a_successor_that_dies_or_is_never_ready_changes_nothing() {
    let now = Instant::now();
    let mut keeper = serving(1, now);
    for pid in [2, 3] {
        keeper.handle_upgrade();
        assert_eq!(commands(&mut keeper), [Command::Start]);
        keeper.started(pid, now);
        if pid == 3 {
            keeper.handle_timeout(now + LIMITS.ready - MS);
            assert_eq!(commands(&mut keeper), []);
            keeper.handle_timeout(now + LIMITS.ready);
            assert_eq!(commands(&mut keeper), [Command::Kill(3)]);
        }
        keeper.handle_exit(pid, Exit::Code(1), now + LIMITS.ready);
        assert_eq!((commands(&mut keeper), keeper.current()), (vec![Command::Forget(pid)], Some(1)));
    }
    keeper.handle_upgrade();
    keeper.not_started("no such file", now);
    assert_eq!((commands(&mut keeper), keeper.current()), (vec![Command::Start], Some(1)));
}

#[test]
fn one_that_dies_during_an_upgrade_is_followed_by_its_successor() {
    let now = Instant::now();
    let mut keeper = serving(1, now);
    keeper.handle_upgrade();
    keeper.started(2, now);
    keeper.handle_exit(1, Exit::Signal(11), now);
    keeper.handle_ready(2, now);
    assert_eq!(commands(&mut keeper), [Command::Start, Command::Promote(2)]);
    assert_eq!(keeper.current(), Some(2));
    assert_eq!(keeper.poll_timeout(), None);
}

#[test]
fn a_stop_reaches_everybody_and_waits_for_all() {
    let now = Instant::now();
    let mut keeper = serving(1, now);
    keeper.handle_upgrade();
    keeper.started(2, now);
    keeper.handle_ready(2, now);
    commands(&mut keeper);
    keeper.handle_stop();
    assert_eq!(commands(&mut keeper), [Command::Stop(2), Command::Stop(1)]);
    keeper.handle_upgrade();
    keeper.handle_exit(2, Exit::Code(0), now);
    assert_eq!(commands(&mut keeper), []);
    keeper.handle_exit(1, Exit::Code(0), now);
    assert_eq!(commands(&mut keeper), [Command::End(0)]);
}

#[test]
fn more_than_a_few_that_leave_are_cut_from_the_eldest_on() {
    let now = Instant::now();
    let mut keeper = serving(1, now);
    let mut killed = Vec::new();
    for pid in 2..8 {
        keeper.handle_upgrade();
        keeper.started(pid, now);
        keeper.handle_ready(pid, now);
        for command in commands(&mut keeper) {
            if let Command::Kill(pid) = command {
                killed.push(pid);
                keeper.handle_exit(pid, Exit::Signal(9), now);
            }
        }
    }
    assert_eq!(killed, [1, 2]);
}

#[test]
fn nothing_closes_that_a_process_in_service_wants() {
    let mut store = Store::default();
    assert_eq!(store.put(1, "web", 10, 'a'), Stored::New);
    assert_eq!(store.put(1, "web", 11, 'b'), Stored::New);
    assert_eq!(store.put(1, "old", 12, 'c'), Stored::New);
    assert_eq!(store.put(2, "web", 10, 'd'), Stored::Known, "a duplicate of the same socket");
    assert_eq!(store.put(2, "web", 11, 'e'), Stored::Known);
    let in_service = |pid: i32| pid == 1 || pid == 2;
    assert!(!store.remove(1, "web", in_service));
    assert_eq!(store.iter().len(), 3);
    assert_eq!(store.put(0, "lent", 13, 'f'), Stored::New);
    // What the successor did not want is closed when it takes over.
    assert_eq!(store.promote(2, 0).into_iter().collect::<Vec<_>>(), ["old"]);
    assert_eq!(store.iter().collect::<Vec<_>>(), [("web", &'a'), ("web", &'b'), ("lent", &'f')]);
    assert!(store.remove(2, "web", in_service));
    assert_eq!(store.iter().len(), 1);
}

#[test]
fn what_a_dead_process_wanted_its_successor_may_close() {
    let mut store = Store::default();
    store.put(1, "web", 10, ());
    assert!(store.remove(2, "web", |pid| pid == 2));
}

#[test]
fn what_a_failed_successor_opened_is_not_held_and_what_a_dead_process_served_is() {
    let mut store = Store::default();
    store.put(1, "web", 10, ());
    store.put(2, "web", 10, ());
    store.put(2, "new", 11, ());
    assert_eq!(store.forget(2).into_iter().collect::<Vec<_>>(), ["new"]);
    // Its owner may have crashed meanwhile: that is what all this is for.
    assert!(store.forget(3).is_empty());
    assert_eq!(store.iter().len(), 1);
}

#[test]
fn messages_are_read_as_systemd_reads_them() {
    let parsed = Notice::parse(b"READY=1\nSTATUS=serving 3\nMAINPID=4\nWATCHDOG=1\n\nX\xff=1\nREADY");
    let expected = Notice { ready: true, watchdog: true, status: Some("serving 3"), ..Notice::default() };
    assert_eq!(parsed, expected);
    let store = notice::store("bind-127.0.0.1-80");
    let expected = Notice { store: true, name: Some("bind-127.0.0.1-80"), ..Notice::default() };
    assert_eq!(Notice::parse(store.as_bytes()), expected);
    let remove = notice::remove("x");
    assert_eq!(
        Notice::parse(remove.as_bytes()),
        Notice { remove: true, name: Some("x"), ..Notice::default() }
    );
    for bad in ["", "a:b", "a b", "\u{e4}", &"x".repeat(256)] {
        assert_eq!(Notice::parse(format!("FDNAME={bad}").as_bytes()).name, None, "{bad:?}");
    }
}

#[test]
fn what_is_given_to_another_process_is_not_ours() {
    let given = |pid, count, names| notice::given(7, pid, count, names);
    assert_eq!(given(Some("7"), Some("2"), Some("web")), Some(vec!["web".into(), String::new()]));
    assert_eq!(given(Some("7"), Some("0"), None), Some(vec![]));
    assert_eq!(given(Some("8"), Some("2"), None), None);
    assert_eq!(given(None, Some("2"), None), None);
    for bad in ["-1", "x", "", "99999999999999999999", "65537"] {
        assert_eq!(given(Some("7"), Some(bad), None), None, "{bad}");
    }
}
