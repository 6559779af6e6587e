//! The unrolled cells as one operation of the graph, forwards and backwards.
//!
//! As single tensor operations, the steps cost several times the arithmetic in them. Here a whole
//! unrolled sequence is one node. The graph composed of single operations is what other devices than
//! the CPU run; the tests hold the two to each other.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use candle_nn::ops::sigmoid as sigmoids;

use crate::device::TrainingPlacement;
use crate::kernels::activation::{sigmoid, tanh};
use crate::kernels::dense::{Dense, Rows};
use crate::kernels::dispatch;

/// Which cell is unrolled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Lstm,
    Gru,
}

/// A cell over some steps. Arguments: what the gates get from the input (steps x rows x gates, bias
/// included), the hidden weights (gates x hidden), and the hidden bias (gates; unused by an LSTM).
/// Result: h after the last step, rows x hidden.
#[derive(Debug, Clone)]
pub(crate) struct Unrolled {
    pub(crate) kind: Kind,
    /// rows x carry, before the first step.
    pub(crate) carry: Vec<f32>,
    /// steps x rows: 0 where a row has no such step and keeps its carry.
    pub(crate) mask: Vec<f32>,
    pub(crate) rows: usize,
    pub(crate) hidden: usize,
}

/// What the backward pass needs of a step.
struct Tape {
    /// rows x carry before the step.
    carry: Vec<f32>,
    /// rows x gates after activation.
    gates: Vec<f32>,
    /// LSTM: tanh of the new c, rows x hidden. GRU: what the new gate gets from the carry.
    extra: Vec<f32>,
}

pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => bail!("wanted contiguous f32"),
    }
}

pub(super) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

impl Unrolled {
    /// The result, as `placement` has it computed.
    pub(crate) fn of(
        self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        placement: &TrainingPlacement,
    ) -> Result<Tensor> {
        match placement.is_fused() {
            true => x.apply_op3(weight, bias, self),
            false => self.composed(x, weight, bias, placement),
        }
    }

    /// The result, of single operations.
    pub(crate) fn composed(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        placement: &TrainingPlacement,
    ) -> Result<Tensor> {
        let (rows, hidden, device) = (self.rows, self.hidden, x.device());
        let width = self.carry.len() / rows;
        let steps = self.mask.len() / rows;
        let carry = Tensor::from_slice(&self.carry, (rows, width), device)?;
        let mask = Tensor::from_slice(&self.mask, (steps, rows, 1), device)?;
        let part = |t: &Tensor, i: usize| t.narrow(1, i * hidden, hidden)?.contiguous();
        let mut h = part(&carry, 0)?;
        // The rest of an LSTM's carry; a GRU has no more.
        let mut c = part(&carry, width / hidden - 1)?;
        for step in 0..steps {
            let x = x.narrow(0, step * rows, rows)?;
            let mask = mask.get(step)?;
            let u = placement.times(&h, weight)?.broadcast_add(bias)?;
            let sum = |i: usize| part(&x, i)? + part(&u, i)?;
            let keep = |new: &Tensor, old: &Tensor| old + (new - old)?.broadcast_mul(&mask)?;
            match self.kind {
                Kind::Lstm => {
                    let written = (sigmoids(&sum(0)?)? * sum(2)?.tanh()?)?;
                    let new_c = ((sigmoids(&sum(1)?)? * &c)? + written)?;
                    let new_h = (sigmoids(&sum(3)?)? * new_c.tanh()?)?;
                    (h, c) = (keep(&new_h, &h)?, keep(&new_c, &c)?);
                }
                Kind::Gru => {
                    let (reset, update) = (sigmoids(&sum(0)?)?, sigmoids(&sum(1)?)?);
                    let new = (part(&x, 2)? + (reset * part(&u, 2)?)?)?.tanh()?;
                    let new_h = (&new + (update * (&h - &new)?)?)?;
                    h = keep(&new_h, &h)?;
                }
            }
        }
        Ok(h)
    }

    fn gates(&self) -> usize {
        match self.kind {
            Kind::Lstm => 4 * self.hidden,
            Kind::Gru => 3 * self.hidden,
        }
    }

    /// Runs the steps; gives back h after the last and, if asked, what the way back needs.
    fn run(&self, x: &[f32], weight: &[f32], bias: &[f32], keep: bool) -> (Vec<f32>, Vec<Tape>) {
        let (rows, hidden, gates) = (self.rows, self.hidden, self.gates());
        let dense = Dense::new(weight, bias, hidden);
        let width = self.carry.len() / rows;
        let mut carry = self.carry.clone();
        let mut tapes = Vec::new();
        for (x, mask) in x
            .chunks_exact(rows * gates)
            .zip(self.mask.chunks_exact(rows))
        {
            let before = carry.clone();
            let mut activated = x.to_vec();
            let mut extra = vec![0.0; rows * hidden];
            match self.kind {
                Kind::Lstm => {
                    dense.accumulate(
                        Rows {
                            values: &before,
                            stride: width,
                        },
                        &mut activated,
                    );
                    lstm_forward(&mut activated, mask, &mut extra, &mut carry, hidden);
                }
                Kind::Gru => {
                    let mut u = vec![0.0; rows * gates];
                    dense.forward(
                        Rows {
                            values: &before,
                            stride: width,
                        },
                        &mut u,
                    );
                    gru_forward(&mut activated, &u, mask, &mut extra, &mut carry, hidden);
                }
            }
            if keep {
                tapes.push(Tape {
                    carry: before,
                    gates: activated,
                    extra,
                });
            }
        }
        let h = carry
            .chunks_exact(width)
            .flat_map(|row| &row[..hidden])
            .copied()
            .collect();
        (h, tapes)
    }
}

dispatch! {
    fn lstm_forward(gates: &mut [f32], mask: &[f32], tanh_c: &mut [f32], carry: &mut [f32], hidden: usize) => lstm_forward_lanes
}

#[inline(always)]
fn lstm_forward_lanes(
    gates: &mut [f32],
    mask: &[f32],
    tanh_c: &mut [f32],
    carry: &mut [f32],
    hidden: usize,
) {
    for (row, &mask) in mask.iter().enumerate() {
        if mask == 0.0 {
            continue;
        }
        let gates = &mut gates[row * 4 * hidden..][..4 * hidden];
        let (i, rest) = gates.split_at_mut(hidden);
        let (f, rest) = rest.split_at_mut(hidden);
        let (g, o) = rest.split_at_mut(hidden);
        let (h, c) = carry[row * 2 * hidden..][..2 * hidden].split_at_mut(hidden);
        let tanh_c = &mut tanh_c[row * hidden..][..hidden];
        for j in 0..hidden {
            i[j] = sigmoid(i[j]);
            f[j] = sigmoid(f[j]);
            g[j] = tanh(g[j]);
            o[j] = sigmoid(o[j]);
            c[j] = f[j].mul_add(c[j], i[j] * g[j]);
            tanh_c[j] = tanh(c[j]);
            h[j] = o[j] * tanh_c[j];
        }
    }
}

dispatch! {
    fn gru_forward(gates: &mut [f32], u: &[f32], mask: &[f32], u_new: &mut [f32], carry: &mut [f32], hidden: usize) => gru_forward_lanes
}

#[inline(always)]
fn gru_forward_lanes(
    gates: &mut [f32],
    u: &[f32],
    mask: &[f32],
    u_new: &mut [f32],
    carry: &mut [f32],
    hidden: usize,
) {
    for (row, &mask) in mask.iter().enumerate() {
        if mask == 0.0 {
            continue;
        }
        let u = &u[row * 3 * hidden..][..3 * hidden];
        let (r, rest) = gates[row * 3 * hidden..][..3 * hidden].split_at_mut(hidden);
        let (z, n) = rest.split_at_mut(hidden);
        let h = &mut carry[row * hidden..][..hidden];
        let u_new = &mut u_new[row * hidden..][..hidden];
        for j in 0..hidden {
            r[j] = sigmoid(r[j] + u[j]);
            z[j] = sigmoid(z[j] + u[hidden + j]);
            u_new[j] = u[2 * hidden + j];
            n[j] = tanh(r[j].mul_add(u_new[j], n[j]));
            h[j] = z[j].mul_add(h[j] - n[j], n[j]);
        }
    }
}

dispatch! {
    /// Gradients of one LSTM step: of the gates before activation, and of the carry before it.
    fn lstm_backward(tape: &Tape, mask: &[f32], hidden: usize, d_carry: &mut [f32], d_gates: &mut [f32]) => lstm_backward_lanes
}

#[inline(always)]
fn lstm_backward_lanes(
    tape: &Tape,
    mask: &[f32],
    hidden: usize,
    d_carry: &mut [f32],
    d_gates: &mut [f32],
) {
    for (row, &mask) in mask.iter().enumerate() {
        let d = &mut d_gates[row * 4 * hidden..][..4 * hidden];
        if mask == 0.0 {
            d.fill(0.0);
            continue;
        }
        let gates = &tape.gates[row * 4 * hidden..][..4 * hidden];
        let c_before = &tape.carry[row * 2 * hidden + hidden..][..hidden];
        let tanh_c = &tape.extra[row * hidden..][..hidden];
        let (dh, dc) = d_carry[row * 2 * hidden..][..2 * hidden].split_at_mut(hidden);
        for j in 0..hidden {
            let (i, f) = (gates[j], gates[hidden + j]);
            let (g, o) = (gates[2 * hidden + j], gates[3 * hidden + j]);
            let d_c = dc[j] + dh[j] * o * (1.0 - tanh_c[j] * tanh_c[j]);
            d[j] = d_c * g * i * (1.0 - i);
            d[hidden + j] = d_c * c_before[j] * f * (1.0 - f);
            d[2 * hidden + j] = d_c * i * (1.0 - g * g);
            d[3 * hidden + j] = dh[j] * tanh_c[j] * o * (1.0 - o);
            dc[j] = d_c * f;
            dh[j] = 0.0;
        }
    }
}

dispatch! {
    /// Gradients of one GRU step: of what the gates get from the input and from the carry, and of
    /// the carry itself.
    fn gru_backward(tape: &Tape, mask: &[f32], hidden: usize, d_carry: &mut [f32], d_input: &mut [f32], d_hidden: &mut [f32]) => gru_backward_lanes
}

#[inline(always)]
fn gru_backward_lanes(
    tape: &Tape,
    mask: &[f32],
    hidden: usize,
    d_carry: &mut [f32],
    d_input: &mut [f32],
    d_hidden: &mut [f32],
) {
    for (row, &mask) in mask.iter().enumerate() {
        let d_input = &mut d_input[row * 3 * hidden..][..3 * hidden];
        let d_hidden = &mut d_hidden[row * 3 * hidden..][..3 * hidden];
        if mask == 0.0 {
            d_input.fill(0.0);
            d_hidden.fill(0.0);
            continue;
        }
        let gates = &tape.gates[row * 3 * hidden..][..3 * hidden];
        let before = &tape.carry[row * hidden..][..hidden];
        let u_new = &tape.extra[row * hidden..][..hidden];
        let dh = &mut d_carry[row * hidden..][..hidden];
        for j in 0..hidden {
            let (r, z, n) = (gates[j], gates[hidden + j], gates[2 * hidden + j]);
            let d_n = dh[j] * (1.0 - z) * (1.0 - n * n);
            let d_r = d_n * u_new[j] * r * (1.0 - r);
            let d_z = dh[j] * (before[j] - n) * z * (1.0 - z);
            d_input[j] = d_r;
            d_input[hidden + j] = d_z;
            d_input[2 * hidden + j] = d_n;
            d_hidden[j] = d_r;
            d_hidden[hidden + j] = d_z;
            d_hidden[2 * hidden + j] = d_n * r;
            dh[j] *= z;
        }
    }
}

dispatch! {
    /// `out += a^T b` over rows; a is rows x m, b is rows x n at `stride`, out is m x n.
    fn add_outer(a: &[f32], b: &[f32], stride: usize, m: usize, out: &mut [f32]) => add_outer_lanes
}

#[inline(always)]
fn add_outer_lanes(a: &[f32], b: &[f32], stride: usize, m: usize, out: &mut [f32]) {
    let n = out.len() / m;
    for (a, b) in a.chunks_exact(m).zip(b.chunks_exact(stride)) {
        for (&a, out) in a.iter().zip(out.chunks_exact_mut(n)) {
            for (out, &b) in out.iter_mut().zip(&b[..n]) {
                *out = a.mul_add(b, *out);
            }
        }
    }
}

impl CustomOp3 for Unrolled {
    fn name(&self) -> &'static str {
        "unrolled-cell"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let (h, _) = self.run(x, weight, slice(bias, bias_layout)?, false);
        Ok((CpuStorage::F32(h), (self.rows, self.hidden).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, hidden, gates) = (self.rows, self.hidden, self.gates());
        let width = self.carry.len() / rows;
        let weights = values(weight)?;
        let (_, tapes) = self.run(&values(x)?, &weights, &values(bias)?, true);
        let transposed: Vec<f32> = (0..hidden * gates)
            .map(|i| weights[i % gates * hidden + i / gates])
            .collect();
        let back = Dense::new(&transposed, &vec![0.0; hidden], gates);
        let mut d_x = vec![0.0; tapes.len() * rows * gates];
        let mut d_weight = vec![0.0; gates * hidden];
        let mut d_bias = vec![0.0; gates];
        let mut d_carry = vec![0.0; rows * width];
        for (carry, grad) in d_carry
            .chunks_exact_mut(width)
            .zip(values(grad)?.chunks_exact(hidden))
        {
            carry[..hidden].copy_from_slice(grad);
        }
        let mut d_hidden = vec![0.0; rows * gates];
        let mut d_h = vec![0.0; rows * hidden];
        for (step, tape) in tapes.iter().enumerate().rev() {
            let mask = &self.mask[step * rows..][..rows];
            let d_x = &mut d_x[step * rows * gates..][..rows * gates];
            match self.kind {
                Kind::Lstm => {
                    lstm_backward(tape, mask, hidden, &mut d_carry, d_x);
                    d_hidden.copy_from_slice(d_x);
                }
                Kind::Gru => {
                    gru_backward(tape, mask, hidden, &mut d_carry, d_x, &mut d_hidden);
                    for row in d_hidden.chunks_exact(gates) {
                        d_bias.iter_mut().zip(row).for_each(|(sum, d)| *sum += d);
                    }
                }
            }
            back.forward(
                Rows {
                    values: &d_hidden,
                    stride: gates,
                },
                &mut d_h,
            );
            for (carry, d_h) in d_carry
                .chunks_exact_mut(width)
                .zip(d_h.chunks_exact(hidden))
            {
                carry.iter_mut().zip(d_h).for_each(|(carry, d)| *carry += d);
            }
            add_outer(&d_hidden, &tape.carry, width, gates, &mut d_weight);
        }
        let device = x.device();
        let d_bias = match self.kind {
            Kind::Lstm => None,
            Kind::Gru => Some(Tensor::from_vec(d_bias, gates, device)?),
        };
        Ok((
            Some(Tensor::from_vec(d_x, x.shape(), device)?),
            Some(Tensor::from_vec(d_weight, weight.shape(), device)?),
            d_bias,
        ))
    }
}
