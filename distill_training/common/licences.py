"""Licences that published weights put on all that is made with them."""

DUST3R = "CC BY-NC-SA 4.0 (DUSt3R, Naver): non-commercial use only"
