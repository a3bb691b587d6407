//! Reads a profile of callgrind: lines `fn=(number) name` begin a function, with lines `place cost` behind them; the
//! line behind one that begins with `calls=` is the cost of what was called, which is counted there.

use std::collections::HashMap;

/// Instructions of all functions but those that copy and fill memory.
pub fn own_instructions(profile: &str) -> u64 {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let (mut sum, mut is_own, mut is_callee) = (0, false, false);
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("fn=") {
            is_own = !is_copying(name_of(function, &mut names));
        } else if let Some(function) = line.strip_prefix("cfn=") {
            name_of(function, &mut names);
        } else if line.starts_with("calls=") {
            is_callee = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost: Option<u64> = line.split(' ').nth(1).and_then(|cost| cost.parse().ok());
            if is_own && !is_callee {
                sum += cost.unwrap_or(0);
            }
            is_callee = false;
        }
    }
    assert!(sum > 0, "this is no profile");
    sum
}

/// A name is given once, and then only its number.
fn name_of<'p>(function: &'p str, names: &mut HashMap<&'p str, &'p str>) -> &'p str {
    let (number, name) = function.split_once(' ').unwrap_or((function, ""));
    if !name.is_empty() {
        names.insert(number, name);
    }
    names.get(number).copied().unwrap_or("")
}

fn is_copying(name: &str) -> bool {
    name.trim_start_matches('_').starts_with("mem")
}
