"""Licences of published weights, which apply to everything made with them."""

DUST3R = "CC BY-NC-SA 4.0 (DUSt3R, Naver): non-commercial use only"
