{{- define "kvgate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Leaves room for "-admin". */}}
{{- define "kvgate.fullname" -}}
{{- $name := include "kvgate.name" . -}}
{{- $both := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $both .Values.fullnameOverride | trunc 57 | trimSuffix "-" -}}
{{- end -}}

{{- define "kvgate.selector" -}}
app.kubernetes.io/name: {{ include "kvgate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kvgate.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "kvgate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "kvgate.serviceAccount" -}}
{{- default (.Values.serviceAccount.create | ternary (include "kvgate.fullname" .) "default") .Values.serviceAccount.name -}}
{{- end -}}

{{- define "kvgate.image" -}}
{{- with .Values.image -}}
{{- .repository }}{{ with .digest }}@{{ . }}{{ else }}:{{ default $.Chart.AppVersion .tag }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* Name of the Secret whose files the configuration refers to, or nothing. */}}
{{- define "kvgate.secret" -}}
{{- .Values.secrets.existing | default (.Values.secrets.create | empty | ternary "" (include "kvgate.fullname" .)) -}}
{{- end -}}

{{/* Name of the Secret with the token of the admin port, or nothing: then only the pod itself reaches that port. */}}
{{- define "kvgate.adminSecret" -}}
{{- .Values.admin.tokenSecret.name -}}
{{- end -}}

{{/* How much KV cache is asked of the engines of one target, in tokens: held and about to be, waiting, and turned away for
want of room (as many as requests that were let in take, held for as long). Replicas of the gateway tell of the same
backends, so the largest counts; each has a queue of its own, so those add up. */}}
{{- define "kvgate.demand" -}}
{{- $models := printf "model_name=~%q" (join "|" .target.models) -}}
sum(max by (backend) (sum without (kind) (kvgate_backend_kv_reserved_tokens{backend=~{{ join "|" .target.backends | quote }}})))
+ (sum(kvgate_admission_queue_tokens{ {{- $models -}} }) or vector(0))
+ (
    {{ .holdingTimeSeconds }}
    * sum(rate(kvgate_admission_decisions_total{ {{- $models }},reason=~"headroom|queue_full|queue_timeout"}[2m]))
    * sum(rate(kvgate_admission_tokens_total{ {{- $models }},outcome="admitted"}[10m]))
    / (sum(rate(kvgate_admission_decisions_total{ {{- $models }},outcome="admitted"}[10m])) > 0)
  or vector(0)
  )
{{- end -}}
