#!/bin/sh
# Gives everything back where Scaler is gone: removed without its uninstall hook, or a namespace restored from a backup in a cluster
# that never had it. Needs kubectl only. Can be run again. Exit status 0 when all is given back, else 1.
#
#   restore-without-scaler.sh [kubectl flags: --context NAME, --kubeconfig FILE, ...]
#
# What it touches carries Scaler's marks: workloads with the annotation scaler.dev/row, Services with the key scaler.dev/fenced in
# their selector, EndpointSlices managed by scaler.dev. While Scaler runs use `autoscaler restore` instead: this would work against it.
set -eu

flags=$*
failed=0
# The given flags are words: none of kubectl's own has a space in it.
kube() { kubectl "$@" $flags </dev/null; }

alive='status.phase!=Succeeded,status.phase!=Failed'
running=$(kube get pods --all-namespaces --selector scaler.dev/component --field-selector "$alive" --output name)
if [ -n "$running" ]; then
    echo "Scaler runs in this cluster: use \`autoscaler restore\` (the Job scaler-restore), or remove it first" >&2
    exit 1
fi

# Each workload that has a record: NAMESPACE NAME SPEC.REPLICAS RECORD. The record is JSON in one line.
template='{{range .items}}{{$item := .}}{{if .metadata.annotations}}{{with index .metadata.annotations "scaler.dev/row"}}{{$item.metadata.namespace}} {{$item.metadata.name}} {{$item.spec.replicas}} {{.}}{{"\n"}}{{end}}{{end}}{{end}}'
for kind in deployments.apps statefulsets.apps; do
    workloads=$(kube get "$kind" --all-namespaces --output "go-template=$template")
    while read -r namespace name replicas record; do
        [ -n "$namespace" ] || continue
        if [ "$replicas" = 0 ]; then
            # What it had before it slept. A quote within a reason is escaped, so this is none of those.
            before=$(printf '%s' "$record" | sed -n 's/.*[,{]"replicas":\([1-9][0-9]*\)[,}].*/\1/p')
            kube scale "$kind/$name" --namespace "$namespace" --current-replicas=0 --replicas="${before:-1}" || {
                failed=1
                continue
            }
        fi
        kube annotate "$kind/$name" --namespace "$namespace" scaler.dev/row- || failed=1
    done <<LIST
$workloads
LIST
done

# From here on the Services lead to their own pods again.
template='{{range .items}}{{if .spec.selector}}{{if index .spec.selector "scaler.dev/fenced"}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}{{end}}'
services=$(kube get services --all-namespaces --output "go-template=$template")
while read -r namespace name; do
    [ -n "$namespace" ] || continue
    kube patch service "$name" --namespace "$namespace" --type json \
        --patch '[{"op": "remove", "path": "/spec/selector/scaler.dev~1fenced"}]' || failed=1
done <<LIST
$services
LIST

template='{{range .items}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}'
ours=endpointslice.kubernetes.io/managed-by=scaler.dev
slices=$(kube get endpointslices.discovery.k8s.io --all-namespaces --selector "$ours" --output "go-template=$template")
while read -r namespace name; do
    [ -n "$namespace" ] || continue
    kube delete endpointslices.discovery.k8s.io "$name" --namespace "$namespace" --ignore-not-found || failed=1
done <<LIST
$slices
LIST

[ "$failed" = 0 ] || echo "not everything is given back, see above; run it again" >&2
exit "$failed"
