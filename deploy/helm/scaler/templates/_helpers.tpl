{{/* The name of everything of this release. */}}
{{- define "scaler.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of a daemon's objects: (dict "root" $ "daemon" "dlx") */}}
{{- define "scaler.name" -}}
{{ include "scaler.fullname" .root }}-{{ .daemon }}
{{- end -}}

{{- define "scaler.serviceAccountName" -}}
{{- $account := (index .root.Values .daemon).serviceAccount -}}
{{- $account.name | default (include "scaler.name" .) -}}
{{- end -}}

{{/* What selects a daemon's pods; never changes. */}}
{{- define "scaler.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .daemon }}
{{- end -}}

{{/* Of objects that belong to a daemon, or (daemon "") to both. */}}
{{- define "scaler.labels" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .daemon }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: scaler
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of an object, without name and namespace; may have "labels" and "annotations" of its own. */}}
{{- define "scaler.metadata" -}}
labels:
  {{- with .labels }}
  {{- merge (dict) . (include "scaler.labels" $ | fromYaml) | toYaml | nindent 2 }}
  {{- else }}
  {{- include "scaler.labels" . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "scaler.image" -}}
{{- $image := (index .root.Values .daemon).image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The namespaces served, as JSON: {"names": [..], "all": bool}. */}}
{{- define "scaler.namespaces" -}}
{{- $names := keys .Values.namespaces | sortAlpha -}}
{{- if and (has "*" $names) (gt (len $names) 1) -}}
{{- fail "namespaces: \"*\" is all namespaces and stands alone; the others would be served twice" -}}
{{- end -}}
{{- dict "all" (has "*" $names) "names" ($names | default (list .Release.Namespace)) | toJson -}}
{{- end -}}

{{/* The namespaces served but the release's own, as JSON: {"names": [..]}; none when all are. */}}
{{- define "scaler.otherNamespaces" -}}
{{- $served := include "scaler.namespaces" . | fromJson -}}
{{- dict "names" (ternary list (without $served.names .Release.Namespace) $served.all) | toJson -}}
{{- end -}}

{{- define "scaler.adminTokenSecret" -}}
{{- .Values.adminToken.existingSecret | default (printf "%s-admin-token" (include "scaler.fullname" .)) -}}
{{- end -}}

{{- define "scaler.configMap" -}}
{{ include "scaler.fullname" . }}-namespaces
{{- end -}}

{{/* The DLXs' ports for intercepted Services, as the daemons take them; empty: none is intercepted. */}}
{{- define "scaler.servicePorts" -}}
{{- with .Values.servicePorts -}}
{{- $first := int .first -}}
{{- $last := int .last -}}
{{- if gt $first $last -}}
{{- fail (printf "servicePorts: the first, %d, is above the last, %d" $first $last) -}}
{{- end -}}
{{- if and (le $first 8091) (ge $last 8090) -}}
{{- fail "servicePorts: 8090 and 8091 are the DLX's own" -}}
{{- end -}}
{{ $first }}-{{ $last }}
{{- end -}}
{{- end -}}

{{/* Flags of both daemons, and of `autoscaler restore`. */}}
{{- define "scaler.commonArgs" -}}
{{- $values := index .root.Values .daemon -}}
- --config=/etc/scaler/namespaces
- --coordinate-by=leases
{{- with include "scaler.servicePorts" .root }}
- --service-ports={{ . }}
- --endpoint-propagation-delay={{ int $.root.Values.endpointPropagationDelaySeconds }}s
{{- end }}
- --dlx-service={{ include "scaler.name" (dict "root" .root "daemon" "dlx") }}
- --admin-token-file=/etc/scaler/admin-token/token
- --log-format={{ $values.logFormat }}
{{- if $values.strict }}
- --strict
{{- end }}
{{- end -}}

{{/* What is the same in both daemons' pods: everything beside the container's args, ports, probes and lifecycle. */}}
{{- define "scaler.podTemplateMetadata" -}}
{{- $values := index .root.Values .daemon -}}
labels:
  {{- /* By this label Scaler knows its own daemons, which it never puts to sleep. */}}
  {{- $own := dict "scaler.dev/component" .daemon }}
  {{- merge $own (include "scaler.selector" . | fromYaml) $values.podLabels .root.Values.commonLabels | toYaml | nindent 2 }}
{{- $annotations := merge (dict) $values.podAnnotations .root.Values.commonAnnotations }}
{{- if .root.Values.metrics.annotations }}
{{- $scrape := dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString .adminPort) "prometheus.io/path" "/metrics" }}
{{- $annotations = merge $annotations $scrape }}
{{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "scaler.podSpec" -}}
{{- $values := index .root.Values .daemon -}}
serviceAccountName: {{ include "scaler.serviceAccountName" . }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: namespaces
    configMap:
      name: {{ include "scaler.configMap" .root }}
  - name: admin-token
    secret:
      secretName: {{ include "scaler.adminTokenSecret" .root }}
      # 0440
      defaultMode: 288
      items:
        - key: {{ .root.Values.adminToken.key }}
          path: token
{{- with $values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A daemon's pods lie apart. */}}
{{- define "scaler.spread" -}}
topologySpreadConstraints:
{{- with (index .root.Values .daemon).topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "scaler.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "scaler.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{- define "scaler.container" -}}
{{- $values := index .root.Values .daemon -}}
image: {{ include "scaler.image" . | quote }}
imagePullPolicy: {{ $values.image.pullPolicy }}
env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  - name: POD_UID
    valueFrom: {fieldRef: {fieldPath: metadata.uid}}
  - name: POD_IP
    valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- with $values.log }}
  - name: RUST_LOG
    value: {{ . | quote }}
{{- end }}
{{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
{{- with $values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumeMounts:
  - name: namespaces
    mountPath: /etc/scaler/namespaces
    readOnly: true
  - name: admin-token
    mountPath: /etc/scaler/admin-token
    readOnly: true
{{- with $values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
