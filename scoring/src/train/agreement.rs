//! The serving kernels against the graph, and the graph's own nodes against single operations.

use candle_core::{Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sanderling_schemas::Rung;

use super::attend::Attend;
use super::batch::{Source, present};
use super::carries::Carries;
use super::embed::Embed;
use super::graph::Graph;
use super::recurrence::{Kind, Unrolled};
use super::*;
use crate::fixtures::{payments, small};
use crate::front::Place;

#[test]
fn serving_agrees_with_the_graph() {
    assert_serving_agrees(700, |_| {});
}

#[test]
fn serving_agrees_with_the_graph_of_every_ablation() {
    assert_serving_agrees(250, |o| o.embedding = 0);
    assert_serving_agrees(250, |o| o.own_events = 0);
    assert_serving_agrees(250, |o| o.lstm = 0);
    assert_serving_agrees(250, |o| o.gru = 0);
    assert_serving_agrees(250, |o| o.endpoint_events = 0);
    assert_serving_agrees(250, |o| o.days = true);
    assert_serving_agrees(250, |o| {
        (o.own_events, o.lstm, o.endpoint_events) = (0, 0, 0);
    });
}

fn assert_serving_agrees(events: usize, change: impl Fn(&mut ModelOptions)) {
    let stream = payments(events, 11);
    let recording = stream.recording();
    let mut options = small(1);
    options.training.endpoint_steps = 3;
    change(&mut options);
    let shape = Architecture::new(&options, recording.schema(), recording.entities()).unwrap();
    let end = recording.times_us()[recording.len() - 1] + 1;
    let plan = TrainingPlan {
        from_us: 0,
        to_us: end,
        known_by_us: end,
        seed: 1,
    };
    let (gradient, label) = gradient_rows(&recording, options.output, &plan).unwrap();
    let front = Front::fit(
        &shape,
        gradient
            .rows
            .iter()
            .map(|&row| recording.features(row as usize)),
        Some(&gradient.targets),
    );
    let background = background(&shape, &recording, &gradient);
    let history = History::new(&recording, shape.memories.len());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let params = Params::new(shape.tensors(), &mut rng, TrainingPlacement::default()).unwrap();
    let mut weights = Weights::default();
    params.store(&mut weights).unwrap();
    front.store(&mut weights);
    weights.insert("label", &[2], label.to_vec());
    let inputs = Stages::new(
        &shape,
        &recording,
        (&front, &background),
        &history,
        &gradient,
        &params,
        rng,
        (false, None, None),
    )
    .inputs(recording.len())
    .unwrap();
    let carries = Carries::fold(&shape, &recording, &history, &inputs, &weights).unwrap();
    let source = Source {
        device: params.device(),
        shape: &shape,
        recording: &recording,
        history: &history,
        inputs: &inputs,
        carries: &carries,
    };
    let rows: Vec<u32> = (0..recording.len() as u32).collect();
    let every: Vec<usize> = (0..shape.inputs.len()).collect();
    let graph = Graph {
        shape: &shape,
        params: &params,
    };
    let now = present(params.device(), &shape, &recording, &front, &rows, &every).unwrap();
    let first = present(
        params.device(),
        &shape,
        &recording,
        &front,
        &rows,
        &shape.first,
    )
    .unwrap();
    let pasts = vec![
        source.own(&rows).unwrap(),
        source.endpoint(1, &rows).unwrap(),
        source.endpoint(2, &rows).unwrap(),
    ];
    let mut expected = graph.heads(&now, &pasts, None).unwrap();
    expected.push(graph.linear(&now).unwrap());
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let expected: Vec<Vec<f32>> = expected.iter().map(flat).collect();
    let expected_first = flat(&graph.first_stage(&first).unwrap());

    let draft = Draft {
        recording: &recording,
        shape: &shape,
        plan: &plan,
        gradient: &gradient,
        label,
    };
    let mut scorer = draft.scorer(&mut weights).unwrap();
    let model = scorer.model().clone();
    let features: Vec<f32> = (0..recording.len())
        .flat_map(|event| recording.features(event).to_vec())
        .collect();
    let found_first = model.first_stage(0, model.front.standardise(&features).all());
    for (event, (found, wanted)) in found_first.iter().zip(&expected_first).enumerate() {
        assert!(
            (found - wanted).abs() < 1e-5,
            "first stage, event {event}: {found} {wanted}"
        );
    }
    let rungs = [Rung::Full, Rung::NoGraph, Rung::Linear];
    let mut differ = false;
    scorer
        .fold_recording(&recording, (0, recording.len()), &rungs, |event, found| {
            for (rung, (&found, wanted)) in found.iter().zip(&expected).enumerate() {
                let wanted = wanted[event];
                assert!(
                    (found - wanted).abs() < 1e-5,
                    "event {event} rung {rung}: {found} {wanted}"
                );
            }
            differ |= (found[0] - found[1]).abs() > 1e-3;
        })
        .unwrap();
    assert!(differ, "the rungs are not the same model");
}

/// Tensors with gradients, and some without.
struct Draws(ChaCha8Rng);

impl Draws {
    fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.0.random_range(-1.0f32..1.0)).collect()
    }

    fn var(&mut self, shape: &[usize]) -> Var {
        let values = self.numbers(shape.iter().product());
        Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
    }

    fn bits(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| if self.0.random_bool(0.7) { 1.0 } else { 0.0 })
            .collect()
    }
}

/// Values and gradients of both, weighted so that no two outputs count alike.
fn assert_same(vars: &[&Var], found: &Tensor, wanted: &Tensor) {
    let n = found.elem_count();
    let weights: Vec<f32> = (0..n).map(|i| 0.3 + (i * 7 % 11) as f32 * 0.1).collect();
    let weights = Tensor::from_vec(weights, found.shape(), &Device::Cpu).unwrap();
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let close = |found: &Tensor, wanted: &Tensor, what: &str| {
        for (found, wanted) in flat(found).into_iter().zip(flat(wanted)) {
            assert!(
                (found - wanted).abs() < 1e-5 * (1.0 + wanted.abs()),
                "{what}: {found} {wanted}"
            );
        }
    };
    close(found, wanted, "value");
    let grads = |tensor: &Tensor| {
        (tensor * &weights)
            .unwrap()
            .sum_all()
            .unwrap()
            .backward()
            .unwrap()
    };
    let (found, wanted) = (grads(found), grads(wanted));
    for (i, var) in vars.iter().enumerate() {
        close(
            found.get(var).unwrap(),
            wanted.get(var).unwrap(),
            &format!("gradient {i}"),
        );
    }
}

#[test]
fn unrolled_cells_equal_single_operations() {
    let (rows, steps, hidden) = (5, 4, 3);
    for kind in [Kind::Lstm, Kind::Gru] {
        let mut draws = Draws(ChaCha8Rng::seed_from_u64(9));
        let gates = if kind == Kind::Lstm { 4 } else { 3 };
        let x = draws.var(&[steps * rows, gates * hidden]);
        let weight = draws.var(&[gates * hidden, hidden]);
        let bias = draws.var(&[gates * hidden]);
        let width = if kind == Kind::Lstm {
            2 * hidden
        } else {
            hidden
        };
        let unrolled = Unrolled {
            kind,
            carry: draws.numbers(rows * width),
            mask: draws.bits(steps * rows),
            rows,
            hidden,
        };
        let zero = bias.zeros_like().unwrap();
        let hidden_bias = if kind == Kind::Lstm {
            &zero
        } else {
            bias.as_tensor()
        };
        let cpu = TrainingPlacement::default();
        let wanted = unrolled.composed(&x, &weight, hidden_bias, &cpu).unwrap();
        let found = unrolled.of(&x, &weight, hidden_bias, &cpu).unwrap();
        let vars: &[&Var] = if kind == Kind::Lstm {
            &[&x, &weight]
        } else {
            &[&x, &weight, &bias]
        };
        assert_same(vars, &found, &wanted);
    }
}

#[test]
fn embeddings_equal_the_code_times_the_weights() {
    let (rows, inputs, bins, size) = (7, 3, 4, 2);
    let mut draws = Draws(ChaCha8Rng::seed_from_u64(4));
    let weight = draws.var(&[inputs, bins, size]);
    let bias = draws.var(&[inputs, size]);
    let places: Vec<Place> = (0..rows * inputs)
        .map(|i| match i % 6 {
            5 => Place {
                bin: Place::MISSING,
                part: 0.0,
            },
            // Beyond the last edge too.
            bin => Place {
                bin: bin as u32,
                part: if bin == bins { 0.0 } else { i as f32 / 21.0 },
            },
        })
        .collect();
    let embed = Embed {
        places,
        inputs,
        size,
    };
    let wanted = embed.composed(&weight, &bias).unwrap();
    let found = embed
        .of(&weight, &bias, &TrainingPlacement::default())
        .unwrap();
    assert_same(&[&weight, &bias], &found, &wanted);
}

#[test]
fn attention_equals_single_operations() {
    let (rows, events, heads, head) = (5, 4, 2, 3);
    let size = heads * head;
    let mut draws = Draws(ChaCha8Rng::seed_from_u64(3));
    let query = draws.var(&[rows, size]);
    let entries = draws.var(&[rows * events, 2 * size]);
    let decay = draws.var(&[heads]);
    let mut mask = draws.bits(rows * events);
    mask[..events].fill(0.0);
    let attend = Attend {
        rows,
        events,
        heads,
        mask,
        ages: draws.numbers(rows * events),
    };
    let wanted = attend.composed(&query, &entries, &decay).unwrap();
    let cpu = TrainingPlacement::default();
    let found = attend.of(&query, &entries, &decay, &cpu).unwrap();
    assert_same(&[&query, &entries, &decay], &found, &wanted);
}
