"""HTTP in, HTTP out, nothing else."""

from fastapi import APIRouter, Depends

from app.dependencies import require_key
from app.routes import health, metrics, model, page, predict

router = APIRouter()
router.include_router(predict.router, dependencies=[Depends(require_key)])
router.include_router(model.router, dependencies=[Depends(require_key)])
router.include_router(health.router)
router.include_router(metrics.router)
router.include_router(page.router)
