//! The managers of a field that Scaler writes.
//!
//! A write makes its writer the field's manager (`metadata.managedFields`), and the next server-side apply of the previous manager
//! conflicts. So a write of another manager's field is followed by one that restores the manager: Scaler manages no field of a user's
//! objects. (In the same patch it does not work: the server goes by what the patch changes.)

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::api::ObjectMeta;
use scaler_types::{Role, ScaleError};
use serde_json::{Value, json};

use super::{INTERCEPT_MANAGER, RESTORE_MANAGER};

/// The managers of a field.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Owners {
    /// Entries of `metadata.managedFields` without their fields. Scaler's own are left out.
    pub(crate) others: Vec<ManagedFieldsEntry>,
    /// Scaler owns it: a daemon has written it, and has not restored it.
    pub(crate) scaler: bool,
}

// === impl Owners ===

impl Owners {
    /// Of the field at a JSON pointer.
    pub(crate) fn of_field(meta: &ObjectMeta, field: &str) -> Self {
        let owning = others(meta).filter(|entry| owns(entry, field));
        let mut all = meta.managed_fields.iter().flatten();
        Self {
            others: owning.map(|entry| ManagedFieldsEntry { fields_v1: None, ..entry.clone() }).collect(),
            scaler: all.any(|entry| is_scaler(entry) && owns(entry, field)),
        }
    }

    /// The same; where Scaler is the only one, those before it, as they were stored.
    pub(crate) fn or_stored(mut self, stored: &[ManagedFieldsEntry]) -> Self {
        if self.scaler && self.others.is_empty() {
            self.others = stored.to_vec();
        }
        self
    }

    /// Fails while Scaler manages the field: the list of its previous managers must not be deleted yet.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Retry`]: the managers of `what` are not restored.
    pub(crate) fn ensure_restored(&self, what: &str) -> Result<(), ScaleError> {
        match self.scaler {
            false => Ok(()),
            true => Err(ScaleError::Retry {
                after: Duration::from_secs(1),
                reason: format!(
                    "restoring the owner of {what} in metadata.managedFields: see the log for what failed"
                ),
            }),
        }
    }

    /// The list in which the field is theirs again and nothing is Scaler's; `None`: so it is.
    pub(crate) fn restored_list(&self, meta: &ObjectMeta, field: &str) -> Option<Vec<ManagedFieldsEntry>> {
        let mut all: Vec<_> = others(meta).cloned().collect();
        // A manager that has written the field since owns it.
        if !all.iter().any(|entry| owns(entry, field)) {
            for owner in &self.others {
                let same = |entry: &&mut ManagedFieldsEntry| {
                    (&entry.manager, &entry.operation, &entry.api_version, &entry.subresource)
                        == (&owner.manager, &owner.operation, &owner.api_version, &owner.subresource)
                };
                match all.iter_mut().find(same) {
                    Some(entry) => own(entry, field),
                    None => {
                        all.push(owner.clone());
                        all.iter_mut().last().into_iter().for_each(|entry| own(entry, field));
                    }
                }
            }
        }
        (meta.managed_fields.as_ref() != Some(&all)).then_some(all)
    }
}

/// All but Scaler's.
fn others(meta: &ObjectMeta) -> impl Iterator<Item = &ManagedFieldsEntry> {
    meta.managed_fields.iter().flatten().filter(|entry| !is_scaler(entry))
}

fn is_scaler(entry: &ManagedFieldsEntry) -> bool {
    let Some(manager) = entry.manager.as_deref() else { return false };
    let is_role = [Role::Autoscaler, Role::Dlx].into_iter().any(|role| manager == role.field_manager());
    // By these it changes nothing itself; but the API server makes the writer the owner of what it adds by default.
    is_role || manager == RESTORE_MANAGER || manager.starts_with(INTERCEPT_MANAGER)
}

/// `/spec/replicas` as `/f:spec/f:replicas`.
fn names(field: &str) -> impl Iterator<Item = String> {
    field.split('/').skip(1).map(|name| format!("f:{name}"))
}

fn owns(entry: &ManagedFieldsEntry, field: &str) -> bool {
    let pointer: String = names(field).map(|name| format!("/{name}")).collect();
    entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer(&pointer).is_some())
}

fn own(entry: &mut ManagedFieldsEntry, field: &str) {
    let fields = entry.fields_v1.get_or_insert_with(|| FieldsV1(json!({})));
    let mut place = &mut fields.0;
    for name in names(field) {
        let Value::Object(below) = place else { return };
        place = below.entry(name).or_insert_with(|| json!({}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(manager: &str, fields: Value) -> Value {
        let operation = if manager == "flux" { "Apply" } else { "Update" };
        json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    fn meta(list: &[Value]) -> ObjectMeta {
        serde_json::from_value(json!({"name": "web", "managedFields": list})).unwrap()
    }

    #[test]
    fn a_field_is_its_owners_again_and_nothing_is_scalers() {
        let field = "/spec/replicas";
        let whole = entry("flux", json!({"f:spec": {"f:replicas": {}, "f:template": {}}}));
        let rest = entry("flux", json!({"f:spec": {"f:template": {}}}));
        let scale = entry("kubectl", json!({"f:spec": {"f:replicas": {}}}));
        let ours = entry("scaler-dlx", json!({"f:spec": {"f:replicas": {}}}));
        let [added, removed] = ["scaler-intercept.1", "scaler-restore"]
            .map(|manager| entry(manager, json!({"f:spec": {"f:trafficDistribution": {}}})));
        for (before, after, expected) in [
            (vec![whole.clone()], vec![rest.clone(), ours.clone()], Some(vec![whole.clone()])),
            // All that it owned: the entry itself is back.
            (
                vec![rest.clone(), scale.clone()],
                vec![rest.clone(), ours.clone()],
                Some(vec![rest.clone(), scale.clone()]),
            ),
            // Without a manager, or Scaler's by a write whose previous manager was never stored.
            (vec![rest.clone()], vec![rest.clone(), ours.clone()], Some(vec![rest.clone()])),
            (vec![ours.clone()], vec![ours.clone()], Some(vec![])),
            // Somebody has taken it meanwhile.
            (vec![whole.clone()], vec![rest.clone(), scale.clone()], None),
            (vec![whole.clone()], vec![whole.clone()], None),
            // The defaults that the API server adds at a write of Scaler's have no owner.
            (vec![whole.clone()], vec![whole.clone(), added, removed], Some(vec![whole.clone()])),
        ] {
            let restored = Owners::of_field(&meta(&before), field).restored_list(&meta(&after), field);
            assert_eq!(
                restored,
                expected.clone().map(|list| meta(&list).managed_fields.unwrap()),
                "{expected:?}"
            );
        }
    }
}
