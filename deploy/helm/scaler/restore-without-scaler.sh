#!/bin/sh
# Restores everything where Scaler is gone: removed without its uninstall hook, or a namespace restored from a backup in a cluster that
# never had it. Needs kubectl only. Can be run again. Exit status 0 when all is restored, else 1.
#
#   restore-without-scaler.sh [kubectl flags: --context NAME, --kubeconfig FILE, ...]
#
# It knows Deployments and StatefulSets. Name other kinds that Scaler managed, with their number of replicas in spec.replicas:
#
#   WORKLOADS="rollouts.argoproj.io workers.example.org" restore-without-scaler.sh
#
# What it touches carries Scaler's marks: workloads with the annotation scaler.dev/state, Services with the key scaler.dev/intercepted in
# their selector, EndpointSlices managed by scaler.dev, the admission policy that keeps the key (label scaler.dev/policy: selector-key). A
# workload at 0 replicas is scaled only if its record says that Scaler put it there; each one that it leaves at 0 has a line. While Scaler runs use `autoscaler restore` instead: this would work against it.
#
# What it writes belongs to kubectl afterwards, a Service's selector to the field manager scaler-restore: the next server-side apply of a
# workload's replicas, or of a Service's selector, needs --force-conflicts.
set -eu

case "${1-}" in
-h | --help)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$0"
    exit 0
    ;;
esac

failed=0
alive='status.phase!=Succeeded,status.phase!=Failed'

running=$(kubectl "$@" get pods --all-namespaces --selector scaler.dev/component --field-selector "$alive" \
    --output 'go-template={{range .items}}{{.metadata.namespace}}/{{.metadata.name}} {{end}}')

# Daemons without that label, too: each DLX has a Lease, and so has the leader of the autoscalers. The holder is its pod and a number.
template='{{range .items}}{{.metadata.namespace}} {{with .spec}}{{with .holderIdentity}}{{.}}{{end}}{{end}}{{"\n"}}{{end}}'
members=$(kubectl "$@" get leases.coordination.k8s.io --all-namespaces --selector scaler.dev/member --output "go-template=$template")
leader=$(kubectl "$@" get leases.coordination.k8s.io --all-namespaces --field-selector metadata.name=scaler-autoscaler \
    --output "go-template=$template")
while read -r namespace holder; do
    [ -n "$holder" ] || continue
    pod=$(kubectl "$@" get pods --namespace "$namespace" --field-selector "metadata.name=${holder%-*},$alive" \
        --output 'go-template={{range .items}}{{.metadata.namespace}}/{{.metadata.name}} {{end}}' </dev/null)
    running="$running$pod"
done <<LIST
$members
$leader
LIST
if [ -n "$running" ]; then
    echo "Scaler runs in this cluster (pods $running): use \`autoscaler restore\` (the Job scaler-restore), or remove it first" >&2
    exit 1
fi

# While the policy is in force, a key that is removed comes back, except by the field manager scaler-restore: so Services are restored below
# whether it can be deleted or not. Clusters before Kubernetes 1.36 have no such kind; another API that does not answer makes this list fail,
# with what there is.
kinds=$(kubectl "$@" api-resources --api-group admissionregistration.k8s.io --output name) || :
for kind in mutatingadmissionpolicybindings.admissionregistration.k8s.io mutatingadmissionpolicies.admissionregistration.k8s.io; do
    case $kinds in
        *"$kind"*)
            kubectl "$@" delete "$kind" --selector scaler.dev/policy=selector-key --ignore-not-found ||
                echo "warning: not deleted, see above. Services are restored all the same; have someone who may do it run: kubectl delete $kind --selector scaler.dev/policy=selector-key" >&2
            ;;
    esac
done

# shellcheck disable=SC2016
# Each workload that has a record: NAMESPACE NAME VERSION stopped|up RECORD. The record is JSON in one line.
template='{{range .items}}{{$item := .}}{{if .metadata.annotations}}{{with index .metadata.annotations "scaler.dev/state"}}{{$item.metadata.namespace}} {{$item.metadata.name}} {{$item.metadata.resourceVersion}} {{if eq (printf "%v" $item.spec.replicas) "0"}}stopped{{else}}up{{end}} {{.}}{{"\n"}}{{end}}{{end}}{{end}}'
for kind in deployments.apps statefulsets.apps ${WORKLOADS:-}; do
    workloads=$(kubectl "$@" get "$kind" --all-namespaces --output "go-template=$template")
    while read -r namespace name version scale record; do
        [ -n "$namespace" ] || continue
        # A quote within a reason is escaped, so neither of these is in one.
        phase=$(printf '%s' "$record" | sed -n 's/.*[,{]"phase":"\([a-z]*\)".*/\1/p')
        before=$(printf '%s' "$record" | sed -n 's/.*[,{]"replicas":\([1-9][0-9]*\)[,}].*/\1/p')
        case $scale-$phase in
            stopped-asleep | stopped-waking | stopped-failed)
                # What it had before it slept.
                replicas="{\"op\": \"replace\", \"path\": \"/spec/replicas\", \"value\": ${before:-1}}, "
                ;;
            stopped-active | stopped-draining)
                replicas=''
                echo "$kind $namespace/$name: left at 0: its record says that something else stopped it. \`kubectl rollout undo\` brings back such a record, too: scale it if it is to run"
                ;;
            up-*)
                replicas=''
                ;;
            *)
                echo "$kind $namespace/$name: its record does not say whether Scaler stopped it: scale it, and remove the annotation scaler.dev/state" >&2
                failed=1
                continue
                ;;
        esac
        kubectl "$@" patch "$kind" "$name" --namespace "$namespace" --type json --patch "[
            {\"op\": \"test\", \"path\": \"/metadata/resourceVersion\", \"value\": \"$version\"}, $replicas
            {\"op\": \"remove\", \"path\": \"/metadata/annotations/scaler.dev~1state\"}]" </dev/null || failed=1
    done <<LIST
$workloads
LIST
done

# From here on the Services' endpoints are their own pods again.
template='{{range .items}}{{if .spec.selector}}{{if index .spec.selector "scaler.dev/intercepted"}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}{{end}}'
services=$(kubectl "$@" get services --all-namespaces --output "go-template=$template")
key='go-template={{if .spec.selector}}{{with index .spec.selector "scaler.dev/intercepted"}}{{.}}{{end}}{{end}}'
remove='[{"op": "remove", "path": "/spec/selector/scaler.dev~1intercepted"}]'
while read -r namespace name; do
    [ -n "$namespace" ] || continue
    # Where the patch failed, the Service may have been deleted, or its key removed, since it was listed.
    left=$(kubectl "$@" patch service "$name" --namespace "$namespace" --type json --field-manager scaler-restore --patch "$remove" --output "$key" </dev/null) ||
        left=$(kubectl "$@" get service "$name" --namespace "$namespace" --ignore-not-found --output "$key" </dev/null) || left=unknown
    if [ -z "$left" ]; then
        echo "service/$name in $namespace: restored"
    else
        echo "service/$name in $namespace: the key scaler.dev/intercepted is still in its selector" >&2
        failed=1
    fi
done <<LIST
$services
LIST

template='{{range .items}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}'
ours=endpointslice.kubernetes.io/managed-by=scaler.dev
slices=$(kubectl "$@" get endpointslices.discovery.k8s.io --all-namespaces --selector "$ours" --output "go-template=$template")
while read -r namespace name; do
    [ -n "$namespace" ] || continue
    kubectl "$@" delete endpointslices.discovery.k8s.io "$name" --namespace "$namespace" --ignore-not-found </dev/null || failed=1
done <<LIST
$slices
LIST

[ "$failed" = 0 ] || echo "not everything is restored, see above; run it again" >&2
exit "$failed"
