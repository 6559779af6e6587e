//! Where tensors are computed: on the CPU, or on a CUDA device where the build and the machine have one.
//!
//! Training computes its graph there. Serving computes the heads there, which are most of a score's
//! arithmetic; memory is folded on the CPU wherever the scores are, so that it is the same everywhere.

mod heads;

use std::fmt;

use candle_core::{DType, Device, Tensor};

use crate::error::ScoringError;
use crate::kernels::numerics;
use crate::options::{Precision, ScoringDevice, ScoringOptions, TrainingDevice, TrainingOptions};

pub(crate) use heads::DeviceHeads;

/// What stands before the device in what fixes the rounding of a score; kernels of the CPU have none.
pub const DEVICE_MARK: char = '+';

/// By how much a loss is larger while gradients pass through [`Precision::F16`], so that small ones are not lost
/// there (Micikevicius et al. 2018, section 3.2).
const F16_LOSS_SCALE: f64 = 1024.0;

/// Where gradients are computed, and with which numbers. Shown, it says so in words.
#[derive(Debug, Clone)]
pub struct TrainingPlacement {
    device: Device,
    /// What matrices are multiplied in.
    products: DType,
    /// Cells, embeddings and attention are one node of the graph each, which only the CPU has.
    fused: bool,
    said: String,
}

impl TrainingPlacement {
    /// What `options` come to here.
    ///
    /// # Errors
    /// [`ScoringError::Option`] where CUDA is asked for and cannot be had, or a precision that the device does
    /// not have.
    pub fn of(options: &TrainingOptions) -> Result<Self, ScoringError> {
        let precision = options.precision;
        match options.device {
            TrainingDevice::Cpu if precision == Precision::F32 => {
                Ok(Self::on_cpu("the CPU".to_string()))
            }
            TrainingDevice::Cpu => Err(not_of_cpu("model.training")),
            TrainingDevice::Graph if precision == Precision::Bf16 => {
                Err(not_of_graph("model.training"))
            }
            TrainingDevice::Graph => Ok(Self::composed(
                Device::Cpu,
                precision,
                "candle's tensors on the CPU",
            )),
            TrainingDevice::Auto | TrainingDevice::Cuda => match cuda() {
                Ok(device) => Ok(Self::composed(device, precision, "the first CUDA device")),
                Err(why) if options.device == TrainingDevice::Auto => {
                    Ok(Self::on_cpu(fallen_back(precision, &why)))
                }
                Err(why) => Err(not_to_be_had("model.training", &why)),
            },
        }
    }

    fn on_cpu(said: String) -> Self {
        Self {
            device: Device::Cpu,
            products: DType::F32,
            fused: true,
            said,
        }
    }

    fn composed(device: Device, precision: Precision, said: &str) -> Self {
        let (products, precision) = dtype_of(precision);
        Self {
            device,
            products,
            fused: false,
            said: format!("{said} in {precision}"),
        }
    }

    /// Where tensors are.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Whether cells, embeddings and attention are one node of the graph each.
    pub(crate) fn is_fused(&self) -> bool {
        self.fused
    }

    /// `x W^T`, in 32 bits whatever it is multiplied in.
    pub(crate) fn times(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        if self.products == DType::F32 {
            return x.matmul(&weight.t()?);
        }
        let (x, weight) = (x.to_dtype(self.products)?, weight.to_dtype(self.products)?);
        x.matmul(&weight.t()?)?.to_dtype(DType::F32)
    }

    /// By how much a loss is to be multiplied before its gradients are taken, and they divided after.
    pub(crate) fn loss_scale(&self) -> f64 {
        match self.products {
            DType::F16 => F16_LOSS_SCALE,
            _ => 1.0,
        }
    }
}

impl Default for TrainingPlacement {
    /// On the CPU.
    fn default() -> Self {
        Self::on_cpu("the CPU".to_string())
    }
}

impl fmt::Display for TrainingPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

fn dtype_of(precision: Precision) -> (DType, &'static str) {
    match precision {
        Precision::F32 => (DType::F32, "f32"),
        Precision::F16 => (DType::F16, "f16"),
        Precision::Bf16 => (DType::BF16, "bf16"),
    }
}

fn refused(section: &str, key: &str, wanted: String) -> ScoringError {
    ScoringError::Option {
        name: format!("{section}.{key}"),
        wanted,
    }
}

fn not_of_cpu(section: &str) -> ScoringError {
    let wanted = "`f32`, the only one of `device: cpu`".to_string();
    refused(section, "precision", wanted)
}

fn not_of_graph(section: &str) -> ScoringError {
    let wanted = "`f32` or `f16`, since candle multiplies no bf16 on the CPU".to_string();
    refused(section, "precision", wanted)
}

fn not_to_be_had(section: &str, why: &str) -> ScoringError {
    refused(section, "device", format!("`cpu` or `auto`, since {why}"))
}

/// What is said where there is no GPU to be had.
fn fallen_back(precision: Precision, why: &str) -> String {
    let precision = match precision {
        Precision::F32 => "",
        _ => " in f32",
    };
    format!("the CPU{precision}, since {why}")
}

/// The first CUDA device, or why there is none.
fn cuda() -> Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no GPU in it (`--features cuda`)".to_string());
    }
    Device::new_cuda(0).map_err(|e| {
        // A backtrace may follow.
        let e = e.to_string();
        let first = e.lines().next().unwrap_or_default();
        format!("there is no CUDA device: {first}")
    })
}

/// Where scores are computed, once it is known what there is. Shown, it says so in words.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The tensors' device and type; without, the kernels of the CPU.
    tensors: Option<(Device, DType)>,
    numerics: String,
    said: String,
}

impl Placement {
    /// What `options` come to here.
    ///
    /// # Errors
    /// [`ScoringError::Option`] where a device is asked for that cannot be had, or a precision that the
    /// device does not have.
    pub fn of(options: &ScoringOptions) -> Result<Self, ScoringError> {
        let precision = options.precision;
        match options.device {
            ScoringDevice::Cpu if precision == Precision::F32 => {
                Ok(Self::kernels("the CPU".to_string()))
            }
            ScoringDevice::Cpu => Err(not_of_cpu("scoring")),
            ScoringDevice::Graph if precision == Precision::Bf16 => Err(not_of_graph("scoring")),
            ScoringDevice::Graph => Ok(Self::tensors(
                Device::Cpu,
                precision,
                "graph",
                "candle's tensors on the CPU",
            )),
            ScoringDevice::Auto | ScoringDevice::Cuda => match cuda() {
                Ok(device) => Ok(Self::tensors(
                    device,
                    precision,
                    "cuda",
                    "the first CUDA device",
                )),
                Err(why) if options.device == ScoringDevice::Auto => {
                    Ok(Self::kernels(fallen_back(precision, &why)))
                }
                Err(why) => Err(not_to_be_had("scoring", &why)),
            },
        }
    }

    fn kernels(said: String) -> Self {
        Self {
            tensors: None,
            numerics: numerics(),
            said,
        }
    }

    fn tensors(device: Device, precision: Precision, name: &str, said: &str) -> Self {
        let (dtype, precision) = dtype_of(precision);
        Self {
            tensors: Some((device, dtype)),
            numerics: format!("{}{DEVICE_MARK}{name}-{precision}", numerics()),
            said: format!("{said} in {precision}"),
        }
    }

    /// The tensors' device and type, unless the CPU's kernels score.
    pub(crate) fn device(&self) -> Option<(&Device, DType)> {
        (self.tensors.as_ref()).map(|(device, dtype)| (device, *dtype))
    }

    /// What fixes the rounding of a score.
    pub(crate) fn numerics(&self) -> &str {
        &self.numerics
    }
}

impl Default for Placement {
    /// On the CPU.
    fn default() -> Self {
        Self::kernels("the CPU".to_string())
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_a_gpu_auto_is_the_cpu_and_says_so_and_cuda_is_refused() {
        let training = |device, precision| {
            TrainingPlacement::of(&TrainingOptions {
                device,
                precision,
                ..TrainingOptions::default()
            })
        };
        let auto = training(TrainingDevice::Auto, Precision::Bf16).unwrap();
        let said = auto.to_string();
        assert!(
            auto.device().is_cpu() && auto.is_fused() && said.contains("in f32"),
            "{said}"
        );
        assert!(said.contains("--features cuda"), "{said}");
        let cuda = training(TrainingDevice::Cuda, Precision::F32);
        let refused = cuda.unwrap_err().to_string();
        assert!(refused.contains("training.device"), "{refused}");
        assert!(training(TrainingDevice::Cpu, Precision::F32).is_ok());

        let options = |device, precision| ScoringOptions { device, precision };
        let auto = Placement::of(&options(ScoringDevice::Auto, Precision::F16)).unwrap();
        assert!(auto.device().is_none());
        let said = auto.to_string();
        assert!(
            said.contains("in f32") && said.contains("--features cuda"),
            "{said}"
        );
        let cuda = Placement::of(&options(ScoringDevice::Cuda, Precision::F32));
        let refused = cuda.unwrap_err().to_string();
        assert!(
            refused.contains("scoring.device") && refused.contains("--features cuda"),
            "{refused}"
        );
    }

    #[test]
    fn a_precision_that_a_device_does_not_have_is_refused() {
        for (device, precision) in [
            (ScoringDevice::Cpu, Precision::F16),
            (ScoringDevice::Graph, Precision::Bf16),
        ] {
            let training = TrainingOptions {
                device: match device {
                    ScoringDevice::Cpu => TrainingDevice::Cpu,
                    _ => TrainingDevice::Graph,
                },
                precision,
                ..TrainingOptions::default()
            };
            let scoring = ScoringOptions { device, precision };
            for (key, refused) in [
                ("scoring.precision", Placement::of(&scoring).unwrap_err()),
                (
                    "model.training.precision",
                    TrainingPlacement::of(&training).unwrap_err(),
                ),
            ] {
                let refused = refused.to_string();
                assert!(
                    refused.contains(key) && refused.contains("`f32`"),
                    "{refused}"
                );
            }
        }
    }
}
