//! Counters, gauges and histograms with labels, and their Prometheus text form.
//!
//! Handles are cheap to clone and lock-free to update; only creating one and rendering take the lock.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Series of one name. At the bound a new label set shares one series whose labels all read `other`:
/// labels come from configuration, so only a mistake of ours reaches it.
pub const SERIES_MAX: usize = 20_000;

/// All metrics of a process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry(Arc<Mutex<Families>>);

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

#[derive(Default)]
struct Families {
    families: BTreeMap<&'static str, Family>,
    collectors: Vec<Collector>,
}

type Collector = Box<dyn Fn(&mut Text) + Send>;

struct Family {
    help: &'static str,
    kind: &'static str,
    series: BTreeMap<String, Series>,
}

#[derive(Clone)]
enum Series {
    Counter(Counter),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// Only ever grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Sets the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Counts observations by upper bound.
#[derive(Clone, Debug)]
pub struct Histogram(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One per bound and one for everything above; each counts only its own range.
    counts: Vec<AtomicU64>,
    /// In millionths, so that one atomic addition suffices.
    sum_micro: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Buckets { bounds, counts, sum_micro: AtomicU64::new(0) }))
    }

    /// Counts one value, not negative.
    pub fn observe(&self, value: f64) {
        let index = self.0.bounds.partition_point(|bound| *bound < value);
        self.0.counts[index].fetch_add(1, Relaxed);
        self.0.sum_micro.fetch_add((value * 1e6) as u64, Relaxed);
    }
}

/// Bounds for durations in seconds, from 100 µs to 30 s.
pub const LATENCY_SECONDS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0,
];

impl Registry {
    /// The counter of this name and these labels, made at the first call.
    pub fn counter(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Counter {
        match self.series(name, help, "counter", labels, || Series::Counter(Counter::default())) {
            Series::Counter(counter) => counter,
            _ => panic!("metric {name} is not a counter"),
        }
    }

    /// The gauge of this name and these labels.
    pub fn gauge(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Gauge {
        match self.series(name, help, "gauge", labels, || Series::Gauge(Gauge::default())) {
            Series::Gauge(gauge) => gauge,
            _ => panic!("metric {name} is not a gauge"),
        }
    }

    /// The histogram of this name and these labels; `bounds` ascend.
    pub fn histogram(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        bounds: &'static [f64],
    ) -> Histogram {
        match self.series(name, help, "histogram", labels, || Series::Histogram(Histogram::new(bounds))) {
            Series::Histogram(histogram) => histogram,
            _ => panic!("metric {name} is not a histogram"),
        }
    }

    /// Forgets the series of `name` with these labels, when what they speak of is gone.
    pub fn remove(&self, name: &str, labels: &[(&str, &str)]) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = inner.families.get_mut(name) {
            family.series.remove(&label_text(labels));
        }
    }

    /// Adds a source of values that are read only when somebody asks (kernel counters, states).
    pub fn collect(&self, collector: impl Fn(&mut Text) + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).collectors.push(Box::new(collector));
    }

    /// Prometheus text exposition format 0.0.4.
    pub fn render(&self) -> String {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Text::default();
        for (name, family) in &inner.families {
            text.family(name, family.kind, family.help);
            for (labels, series) in &family.series {
                match series {
                    Series::Counter(counter) => text.line(name, "", labels, counter.get() as f64),
                    Series::Gauge(gauge) => text.line(name, "", labels, gauge.get()),
                    Series::Histogram(Histogram(buckets)) => {
                        let counts = buckets.counts.iter().map(|count| count.load(Relaxed));
                        let sum = buckets.sum_micro.load(Relaxed) as f64 / 1e6;
                        text.buckets(name, labels, buckets.bounds, counts, sum);
                    }
                }
            }
        }
        for collector in &inner.collectors {
            collector(&mut text);
        }
        text.0
    }

    fn series(
        &self,
        name: &'static str,
        help: &'static str,
        kind: &'static str,
        labels: &[(&str, &str)],
        new: impl FnOnce() -> Series,
    ) -> Series {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let family =
            inner.families.entry(name).or_insert_with(|| Family { help, kind, series: BTreeMap::new() });
        let mut key = label_text(labels);
        if family.series.len() >= SERIES_MAX && !family.series.contains_key(&key) {
            let others: Vec<_> = labels.iter().map(|(label, _)| (*label, "other")).collect();
            key = label_text(&others);
        }
        family.series.entry(key).or_insert_with(new).clone()
    }
}

/// Exposition text under construction.
#[derive(Default)]
pub struct Text(String);

impl Text {
    /// Begins a family: `kind` is `counter`, `gauge` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value of the family begun last.
    pub fn value(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.line(name, "", &label_text(labels), value);
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &str, value: f64) {
        let _infallible = match labels {
            "" => writeln!(self.0, "{name}{suffix} {value}"),
            _ => writeln!(self.0, "{name}{suffix}{{{labels}}} {value}"),
        };
    }

    /// One histogram of the family begun last. `counts`: one for each bound and one for everything above, each of its own range.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        self.buckets(name, &label_text(labels), bounds, counts.iter().copied(), sum);
    }

    fn buckets(
        &mut self,
        name: &str,
        labels: &str,
        bounds: &[f64],
        counts: impl Iterator<Item = u64>,
        sum: f64,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (index, count) in counts.enumerate() {
            total += count;
            let bound = bounds.get(index).map_or("+Inf".to_owned(), f64::to_string);
            self.line(name, "_bucket", &format!("{labels}{comma}le=\"{bound}\""), total as f64);
        }
        self.line(name, "_sum", labels, sum);
        self.line(name, "_count", labels, total as f64);
    }
}

fn label_text(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (index, (label, value)) in labels.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _infallible = write!(text, "{comma}{label}=\"{value}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let registry = Registry::default();
        registry.counter("a_total", "Things.", &[("pool", "we\"b")]).add(3);
        registry.counter("a_total", "Things.", &[("pool", "we\"b")]).add(1);
        registry.gauge("b", "Level.", &[]).set(0.5);
        let histogram = registry.histogram("c_seconds", "Time.", &[("l", "x")], &[0.1, 1.0]);
        for value in [0.1, 0.2, 5.0] {
            histogram.observe(value);
        }
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\na_total{pool=\"we\\\"b\"} 4\n\
            # HELP b Level.\n# TYPE b gauge\nb 0.5\n\
            # HELP c_seconds Time.\n# TYPE c_seconds histogram\n\
            c_seconds_bucket{l=\"x\",le=\"0.1\"} 1\nc_seconds_bucket{l=\"x\",le=\"1\"} 2\n\
            c_seconds_bucket{l=\"x\",le=\"+Inf\"} 3\nc_seconds_sum{l=\"x\"} 5.3\nc_seconds_count{l=\"x\"} 3\n";
        assert_eq!(registry.render(), expected);
    }

    #[test]
    fn series_are_bounded() {
        let registry = Registry::default();
        for index in 0..SERIES_MAX + 10 {
            registry.counter("a_total", "", &[("i", &index.to_string())]).add(1);
        }
        assert!(registry.render().contains("a_total{i=\"other\"} 10\n"));
    }
}
