{{/*
What each daemon may do, and why. Verbs are spelled out, no resource is a wildcard but the names of custom metrics, nothing of a Secret is read,
and no workload or pod can be created or deleted. The rights to intercept Services are there only with servicePorts.
*/}}

{{/* A rule for workloads. apps has its two; further ones come from the values. */}}
{{- define "scaler.workloadRules" -}}
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, patch]
{{- range .root.Values.workloads }}
- apiGroups: [{{ .group | quote }}]
  resources: [{{ .plural | quote }}]
  verbs: [get, list, watch, patch]
{{- end }}
{{- end -}}

{{/* What the plugin `deployment` asks of a served namespace: (dict "root" $ "daemon" ..). Its README has the table. */}}
{{- define "scaler.pluginRules" -}}
{{- $intercepts := and (eq .daemon "autoscaler") (include "scaler.servicePorts" .root) -}}
# The workloads; a patch changes the record and the replicas.
{{ include "scaler.workloadRules" . }}
# The workload's names{{ if $intercepts }}; a patch adds one key to a Service's selector, and takes it away{{ end }}.
- apiGroups: [""]
  resources: [services]
  verbs: {{ ternary "[get, list, watch, patch]" "[list, watch]" (not (empty $intercepts)) }}
{{- if $intercepts }}
# The endpoints of intercepted Services.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch, create, update, patch, delete]
# Whether a policy protects the pods: such a workload is not intercepted, because every client of the DLX would reach them.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [list, watch]
{{- else if include "scaler.servicePorts" .root }}
# Which EndpointSlices still name this DLX: until none does, it does not end.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
{{- end }}
{{- if eq .daemon "autoscaler" }}
{{- $marks := .root.Values.autoscaler.podDeletionCost }}
# Which pods have work, before some are removed{{ if $marks }}; a patch marks the others with controller.kubernetes.io/pod-deletion-cost{{ end }}.
- apiGroups: [""]
  resources: [pods]
  verbs: {{ ternary "[list, patch]" "[list]" $marks }}
{{- else }}
# Where a workload listens, and why it does not start.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
# A host annotation counts only where one of these has the host.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [list, watch]
{{- if eq .daemon "autoscaler" }}
# Whether another autoscaler scales the workload to zero.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [list, watch]
{{- end }}
# Events on the workload: what was done, refused or failed.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* A daemon's rules in a served namespace: (dict "root" $ "daemon" ..) */}}
{{- define "scaler.servedRules" -}}
{{ include "scaler.pluginRules" . }}
{{- if and (eq .daemon "autoscaler") (include "scaler.customMetrics" .root) }}
# The metric source `kubernetes`. (RBAC cannot limit the names of metrics.)
- apiGroups: [custom.metrics.k8s.io]
  resources: ["*"]
  verbs: [get]
{{- end }}
{{- end -}}

{{/* Objects that are not in a namespace: whether a served namespace opts in as a whole; the zone of a DLX. */}}
{{- define "scaler.clusterRules" -}}
{{- $served := include "scaler.namespaces" .root | fromJson -}}
# Whether a namespace opts in all its workloads.
- apiGroups: [""]
  resources: [namespaces]
  {{- if not $served.all }}
  resourceNames: {{ $served.names | toJson }}
  {{- end }}
  verbs: [list, watch]
{{- if and (eq .daemon "autoscaler") (include "scaler.servicePorts" .root) }}
# The zone of a DLX, for the endpoints of intercepted Services.
- apiGroups: [""]
  resources: [nodes]
  verbs: [get]
{{- end }}
{{- end -}}

{{/* A daemon's rules in its own namespace. */}}
{{- define "scaler.ownRules" -}}
{{- $intercepts := include "scaler.servicePorts" .root -}}
{{- if eq .daemon "autoscaler" -}}
# The Lease that names the leader. (A name cannot limit create.)
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [scaler-autoscaler]
  verbs: [get, watch, update]
# The registered DLXs: each must confirm a drain attempt. The Lease of a DLX that is dead is deleted.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: {{ ternary "[list, watch, delete]" "[list, delete]" (ne "" $intercepts) }}
# Whether a DLX is dead{{ if $intercepts }}, and whether it takes requests{{ end }}: its pod.
- apiGroups: [""]
  resources: [pods]
  verbs: {{ ternary "[get, list, watch]" "[get]" (ne "" $intercepts) }}
{{- if $intercepts }}
# Which Service each port of the DLXs belongs to. (A name cannot limit create; an admission policy does.)
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [scaler-service-ports]
  verbs: [get, list, watch, update, patch]
{{- end }}
{{- else -}}
# Its own Lease, named after its pod: its registration.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, create, update, delete]
{{- if $intercepts }}
# Which Service each of its ports belongs to.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [scaler-service-ports]
  verbs: [get, list, watch]
{{- end }}
{{- end }}
{{- end -}}

{{/* Not empty where a namespace file or a flag asks for custom metrics. */}}
{{- define "scaler.customMetrics" -}}
{{- if or .Values.autoscaler.customMetrics .Values.autoscaler.metricsResourceKind -}}
yes
{{- end -}}
{{- range $name, $file := .Values.namespaces -}}
{{- if eq "kubernetes" (dig "metrics" "source" "" ($file | default dict)) -}}
yes
{{- end -}}
{{- end -}}
{{- end -}}
