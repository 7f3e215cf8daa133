//! What the kernel thinks of the programs: `tests/data/verifier-budget.toml` says what it may think.

use std::collections::BTreeMap;

use aya::Ebpf;
use weir_tests::{
    prog_run::object_path,
    verdict::{Cost, cost},
};

const BUDGET: &str = include_str!("../../data/verifier-budget.toml");

#[test]
fn no_program_costs_more_than_its_budget() {
    let budget: toml::Table = BUDGET.parse().expect("TOML");
    let mut ebpf = Ebpf::load_file(object_path()).expect("object");
    let names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    let costs: BTreeMap<String, Cost> =
        names.iter().map(|name| (name.clone(), cost(&mut ebpf, name).expect("load"))).collect();
    let mut beyond = Vec::new();
    println!("{:<12} {:>14} {:>12} {:>13}", "program", "instructions", "size_bytes", "stack_bytes");
    for (name, cost) in &costs {
        let instructions = cost.instructions.map_or_else(|| "unknown".into(), |count| count.to_string());
        println!("{name:<12} {instructions:>14} {:>12} {:>13}", cost.size_bytes, cost.stack_bytes);
        let budget = budget.get(name).and_then(toml::Value::as_table);
        let budget = budget.unwrap_or_else(|| panic!("the budget has no program {name}"));
        let figures = [
            ("instructions", cost.instructions),
            ("size_bytes", Some(cost.size_bytes)),
            ("stack_bytes", Some(cost.stack_bytes)),
        ];
        assert_eq!(budget.len(), figures.len(), "{name} has other figures");
        for (what, seen) in figures {
            let most = budget.get(what).and_then(toml::Value::as_integer).expect("a number");
            match seen {
                Some(seen) if i64::from(seen) > most => {
                    beyond.push(format!("{name}: {what} {seen}, allowed {most}"));
                }
                _ => {}
            }
        }
    }
    let gone: Vec<_> = budget.keys().filter(|name| !costs.contains_key(*name)).collect();
    assert!(gone.is_empty(), "the budget has programs that the object has not: {gone:?}");
    assert!(beyond.is_empty(), "beyond the budget (its file says what to do):\n{}", beyond.join("\n"));
}
