//! Where training's graph of tensors is computed.
//!
//! On the CPU the cells, the embeddings and attention are operations of our own; elsewhere they are
//! composed of candle's, which the tests hold to be the same.

use candle_core::Device;

use crate::error::ScoringError;
use crate::options::TrainingDevice;

/// The device that `wanted` comes to here, and what there is to say of it.
///
/// # Errors
/// [`ScoringError::Option`] where CUDA is asked for and cannot be had.
pub fn training_device(wanted: TrainingDevice) -> Result<(Device, String), ScoringError> {
    let on_cpu = |why: String| (Device::Cpu, format!("the CPU{why}"));
    match (wanted, cuda()) {
        (TrainingDevice::Cpu, _) => Ok(on_cpu(String::new())),
        (_, Ok(device)) => Ok((device, "the first CUDA device".to_string())),
        (TrainingDevice::Auto, Err(why)) => Ok(on_cpu(format!(", since {why}"))),
        (TrainingDevice::Cuda, Err(why)) => Err(ScoringError::Option {
            name: "training.device".to_string(),
            wanted: format!("`cpu` or `auto`, since {why}"),
        }),
    }
}

/// The first CUDA device, or why there is none.
fn cuda() -> Result<Device, String> {
    if !candle_core::utils::cuda_is_available() {
        return Err("this build has no GPU in it (`--features cuda`)".to_string());
    }
    Device::new_cuda(0).map_err(|e| format!("there is no CUDA device: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_a_gpu_auto_is_the_cpu_and_says_so_and_cuda_is_refused() {
        let (device, said) = training_device(TrainingDevice::Auto).unwrap();
        assert!(
            device.is_cpu() && said.contains("--features cuda"),
            "{said}"
        );
        let refused = training_device(TrainingDevice::Cuda)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("training.device"), "{refused}");
        assert!(training_device(TrainingDevice::Cpu).unwrap().0.is_cpu());
    }
}
