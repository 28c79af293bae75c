//! Resource-scaler of kind `deployment`: Kubernetes workloads that have a scale.
