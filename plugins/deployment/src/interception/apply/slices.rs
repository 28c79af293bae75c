//! Writing Scaler's EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use scaler_types::{Dlx, ScaleError};

use super::super::{
    InterceptionWriter,
    desired::plan::{self, AssignedPorts},
};
use crate::{
    ascii, cluster,
    index::{ObjectChange, ObjectType, StateOrigin},
    objects::{
        DLXS, FORMAT, IpFamily, MANAGED_BY, NEWEST, OWNERS, ObjectName, SERVICE, Service, Slice,
        SliceEndpoint,
    },
};

/// Our slice of a Service.
pub(crate) fn build_slice(
    service: &Service,
    family: IpFamily,
    assigned: &AssignedPorts,
    dlxs: &[Dlx],
) -> EndpointSlice {
    let name = service.meta.name.to_string();
    let (places, names) = plan::dlx_endpoints(dlxs, family);
    let text = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let owners = &service.owners.others;
    let owners = (!owners.is_empty()).then(|| (OWNERS.to_owned(), ascii::text(owners)));
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: name.clone(),
        uid: service.meta.uid.clone(),
        ..OwnerReference::default()
    };
    let ports = service.ports.iter().filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone()),
            port: Some(i32::from(*assigned.get(&port.name)?)),
            protocol: Some("TCP".to_owned()),
            app_protocol: Some(port.protocol.clone()).filter(|said| !said.is_empty()),
        })
    });
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(plan::slice_name(&name, family)),
            namespace: Some(service.meta.namespace.to_string()),
            labels: Some(BTreeMap::from([text(SERVICE, &name), text(MANAGED_BY.0, MANAGED_BY.1)])),
            annotations: Some(
                [text(FORMAT, &NEWEST.to_string()), text(DLXS, &names.join(","))]
                    .into_iter()
                    .chain(owners)
                    .collect(),
            ),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints: places.into_iter().map(endpoint).collect(),
        ports: Some(ports.collect()),
    }
}

fn endpoint(place: SliceEndpoint) -> Endpoint {
    Endpoint {
        addresses: vec![place.address],
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: place.node,
        zone: place.zone,
        ..Endpoint::default()
    }
}

/// Whether what is there says what is wanted.
fn is_up_to_date(there: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    there.ports == wanted.ports && Slice::from(there.clone()).ours == Slice::from(wanted.clone()).ours
}

impl InterceptionWriter {
    /// Has a Service's slices name these DLXs, one slice for each family that they share. That of another family of the Service's
    /// stays as it is until endpoints of its own take what comes by it: it may name one that is ending and serves.
    ///
    /// # Errors
    ///
    /// [`ScaleError::Terminal`] if a slice of that name is not Scaler's; and as any write.
    pub(in crate::interception) async fn write_slices(
        &self,
        service: &Service,
        assigned: &AssignedPorts,
        dlxs: &[Dlx],
    ) -> Result<(), ScaleError> {
        let families = plan::shared_families(service, dlxs);
        let mut there = self.read_slices(&service.meta.key()).await?;
        let service = &Service { owners: self.selector_owners(service), ..service.clone() };
        for &family in &families {
            let wanted = build_slice(service, family, assigned, dlxs);
            let at = there.iter().position(|slice| slice.metadata.name == wanted.metadata.name);
            match at.map(|at| there.swap_remove(at)) {
                Some(slice) if is_up_to_date(&slice, &wanted) => {}
                Some(slice) => {
                    let mut wanted = wanted;
                    // The version that it replaces, and no other.
                    wanted.metadata.uid = slice.metadata.uid;
                    wanted.metadata.resource_version = slice.metadata.resource_version;
                    self.put_slice(service, wanted, true).await?;
                }
                None => self.put_slice(service, wanted, false).await?,
            }
        }
        let alone = service.intercepted || self.store.with(|state| !state.interception.is_ready(service));
        for slice in there {
            let family = IpFamily::parse(&slice.address_type);
            let unreached =
                family.is_some_and(|of| service.families.contains(&of) && !families.contains(&of));
            if !(alone && unreached) {
                self.delete_slice(slice).await?;
            }
        }
        Ok(())
    }

    /// Deletes a Service's slices of ours.
    ///
    /// # Errors
    ///
    /// As [`write_slices`](Self::write_slices).
    pub(in crate::interception) async fn delete_slices(
        &self,
        service: &ObjectName,
    ) -> Result<(), ScaleError> {
        for slice in self.read_slices(service).await? {
            self.delete_slice(slice).await?;
        }
        Ok(())
    }

    /// Reads a Service's slices of ours from the API server, and takes that over.
    ///
    /// # Errors
    ///
    /// One has our name and is not ours, or a newer version's; and as any read.
    pub(in crate::interception) async fn read_slices(
        &self,
        service: &ObjectName,
    ) -> Result<Vec<EndpointSlice>, ScaleError> {
        let mut names: BTreeSet<ObjectName> = IpFamily::ALL
            .map(|family| (service.0.clone(), plan::slice_name(&service.1, family).into()))
            .into();
        self.store.with(|state| {
            let ours = state.interception.slices_of(service).filter(|slice| slice.ours.is_some());
            names.extend(ours.map(|slice| slice.meta.key()));
        });
        let mut all = Vec::new();
        for name in names {
            let read =
                self.cluster.call(self.cluster.in_namespace::<EndpointSlice>(&name.0).get(&name.1)).await;
            match read {
                Ok(slice) => {
                    self.observe_slice(slice.clone());
                    match Slice::from(slice.clone()).ours {
                        Some(ours) if ours.format > NEWEST => {
                            let what = "was written by a newer version of Scaler: run that version, or delete \
                                 the slice";
                            return Err(foreign_slice(&name, what));
                        }
                        Some(_) => all.push(slice),
                        None => {
                            let what = "has a name that Scaler uses and is not Scaler's: rename or delete it";
                            return Err(foreign_slice(&name, what));
                        }
                    }
                }
                Err(error) if cluster::is_missing(&error) => self.forget_slice(&name),
                Err(error) => {
                    let doing = format!("reading the EndpointSlice {}/{}", name.0, name.1);
                    return Err(cluster::write_error(&error, &doing, false));
                }
            }
        }
        Ok(all)
    }

    async fn put_slice(
        &self,
        service: &Service,
        slice: EndpointSlice,
        there: bool,
    ) -> Result<(), ScaleError> {
        let api = self.cluster.in_namespace::<EndpointSlice>(&service.meta.namespace);
        let name = slice.metadata.name.clone().unwrap_or_default();
        let (doing, params) = (format!("writing the EndpointSlice {name}"), PostParams::default());
        let written = match there {
            true => self.cluster.call(api.replace(&name, &params, &slice)).await,
            false => self.cluster.call(api.create(&params, &slice)).await,
        };
        self.observe_slice(written.map_err(|error| cluster::write_error(&error, &doing, false))?);
        Ok(())
    }

    /// Deletes a slice, if it still is what was read.
    ///
    /// # Errors
    ///
    /// As any write.
    pub(in crate::interception) async fn delete_slice(&self, slice: EndpointSlice) -> Result<(), ScaleError> {
        let name: ObjectName = Slice::from(slice.clone()).meta.key();
        let preconditions =
            Preconditions { uid: slice.metadata.uid, resource_version: slice.metadata.resource_version };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = self.cluster.in_namespace::<EndpointSlice>(&name.0);
        match self.cluster.call(api.delete(&name.1, &params)).await {
            Ok(_) => {}
            Err(error) if cluster::is_missing(&error) => {}
            Err(error) => {
                return Err(cluster::write_error(
                    &error,
                    &format!("deleting the EndpointSlice {}", name.1),
                    false,
                ));
            }
        }
        self.forget_slice(&name);
        Ok(())
    }

    fn observe_slice(&self, slice: EndpointSlice) {
        self.store.with(|state| state.apply(ObjectChange::Slice(Box::new(slice.into())), StateOrigin::Own));
    }

    fn forget_slice(&self, name: &ObjectName) {
        self.store.with(|state| {
            if let Some(uid) = state.interception.slice(name).map(|slice| slice.meta.uid.clone()) {
                state.remove(ObjectType::Slices, name, &uid);
            }
        });
    }
}

fn foreign_slice(name: &ObjectName, what: &str) -> ScaleError {
    ScaleError::Terminal { reason: format!("the EndpointSlice {} in namespace {} {what}", name.1, name.0) }
}
